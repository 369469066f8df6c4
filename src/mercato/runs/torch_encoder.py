"""The torch encoder: a run's towers as they were trained."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_model, save_model
from transformers import AutoConfig

from mercato.config import Recipe
from mercato.features.featurizer import Features, Featurizer
from mercato.features.ids import save_ids
from mercato.models.build import TextConfigs, build_towers
from mercato.models.tower import TwoTower, tensors
from mercato.runs.encoder import RunEncoder
from mercato.runs.folder import (
    IDS,
    QUERIES,
    RECIPE,
    SPEC,
    TEXT_CONFIGS,
    TOKENIZER,
    WEIGHTS,
    load_head_queries,
    load_image_encoder,
    load_recipe_and_featurizer,
    reading_run,
    seal_run,
)
from mercato.runs.image_encoder import ImageEncoder
from mercato.runs.query_head import QueryHead


class TorchEncoder(RunEncoder):
    """Encoder of a run in torch: for training, explaining and checking; serving uses the ONNX towers."""

    def __init__(
        self,
        recipe: Recipe,
        featurizer: Featurizer,
        image_encoder: ImageEncoder | None,
        towers: TwoTower,
        head_queries: Sequence[str] = (),
    ) -> None:
        """`head_queries` are the classes of the towers' head, in its order."""
        super().__init__(recipe, featurizer, image_encoder)
        self.towers, self.head_queries = towers.eval(), tuple(head_queries)

    @classmethod
    def load(cls, run: Path) -> Self:
        """Load a run folder.

        Raises:
            MercatoError: the folder is not a run.
        """
        recipe, featurizer = load_recipe_and_featurizer(run)
        configs = load_text_configs(run)
        queries = load_head_queries(run)
        towers = build_towers(recipe, featurizer.spec, configs, len(queries), new=False)
        with reading_run(run / WEIGHTS):
            load_model(towers, run / WEIGHTS)
        return cls(recipe, featurizer, load_image_encoder(run), towers, queries)

    def save(self, run: Path) -> None:
        """Write all of a run but its metrics, report and ONNX towers (`mercato.runs.export`)."""
        (run / RECIPE).write_text(self.recipe.toml())
        self.featurizer.spec.save(run / SPEC)
        self.featurizer.tokenizer.save(str(run / TOKENIZER))
        if self.featurizer.known_ids:
            save_ids(self.featurizer.known_ids, run / IDS)
        save_text_configs(self.towers, run)
        if self.head_queries:
            (run / QUERIES).write_text(json.dumps(self.head_queries, ensure_ascii=False) + "\n")
        save_model(self.towers, str(run / WEIGHTS))
        (run / WEIGHTS).chmod(0o644)  # safetensors lets only its writer read it
        seal_run(run)

    @property
    def query_head(self) -> QueryHead | None:
        """The towers' classification head; None where they have none."""
        if self.towers.head is None:
            return None
        weight_YD, bias_Y = (parameter.detach().cpu().numpy() for parameter in self.towers.head.parameters())
        return QueryHead(self.head_queries, weight_YD, bias_Y)

    @torch.inference_mode()
    def query_vectors(self, features: Features) -> NDArray[np.float32]:
        """The query tower on a batch of features → (B, D)."""
        vectors: NDArray[np.float32] = self.towers.query(tensors(features))[0].numpy()
        return vectors

    @torch.inference_mode()
    def product_vectors(self, features: Features) -> NDArray[np.float32]:
        """The product tower on a batch of features → (B, D)."""
        vectors: NDArray[np.float32] = self.towers.product(tensors(features))[0].numpy()
        return vectors


def load(run: str | Path, market: str | Path | None = None) -> TorchEncoder:
    """Load a trained run: `mc.load(run).encode_queries(["red sofa"])`; `market` is where images given by path lie."""
    model = TorchEncoder.load(Path(run))
    model.market_path = None if market is None else Path(market)
    return model


def save_text_configs(towers: TwoTower, folder: Path) -> None:
    """Write the transformers' configuration of each tower that reads text."""
    for tower, part in (("query", towers.query), ("product", towers.product)):
        if part.text is not None:
            part.text.backbone.config.to_json_file(folder / f"{tower}_text.json")  # type: ignore[union-attr,operator]


def load_text_configs(folder: Path) -> TextConfigs:
    """What `save_text_configs` wrote."""
    configs = {}
    for name in TEXT_CONFIGS:
        if (folder / name).is_file():
            with reading_run(folder / name):
                tower = name.removesuffix("_text.json")
                configs[tower] = AutoConfig.from_pretrained(folder / name, trust_remote_code=False)
    return configs
