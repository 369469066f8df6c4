"""An untrained run of a given size: what a tower costs does not depend on what it has learned."""

from __future__ import annotations

from pathlib import Path

import torch

from mercato.config import Recipe
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.tokenizer import train_tokenizer
from mercato.models.build import build_towers, text_configs
from mercato.runs.export import export
from mercato.runs.latency import made_up_queries
from mercato.runs.torch_encoder import TorchEncoder


def untrained_run(folder: Path, recipe: Recipe, *, title_tokens: int = 32, image_dimension: int = 0) -> None:
    """Write a run of this recipe with the weights that it begins with, and its ONNX towers."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = train_tokenizer(made_up_queries(20_000), recipe.text.vocabulary)
    spec = FeatureSpec(
        query_channels=recipe.query_tower.channels,
        product_channels=recipe.product_tower.channels,
        pad_id=0,
        vocabulary=tokenizer.get_vocab_size(),
        buckets=recipe.trigrams.buckets,
        query_tokens=16,
        query_characters=48,
        title_tokens=title_tokens,
        description_tokens=64,
        countries=("gb", "us"),
        languages=("en",),
        max_images=int(image_dimension > 0),
        image_dimension=image_dimension,
    )
    torch.manual_seed(0)
    towers = build_towers(recipe, spec, text_configs(recipe, spec))
    model = TorchEncoder(recipe, Featurizer(spec, tokenizer), None, towers)
    model.save(folder)
    export(model, folder)
