"""The run folder: the files that training leaves, by name, and how they are read. No torch here."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from safetensors import safe_open
from tokenizers import Tokenizer

from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.ids import KnownIds, load_ids
from mercato.features.images import SPEC as IMAGE_SPEC
from mercato.features.images import read_spec
from mercato.features.tokenizer import load_tokenizer
from mercato.manifest import reading, write_manifest
from mercato.runs.image_encoder import MODEL as IMAGE_MODEL
from mercato.runs.image_encoder import ImageEncoder
from mercato.runs.query_head import QueryHead

RECIPE, SPEC, TOKENIZER, WEIGHTS = "recipe.toml", "features.json", "tokenizer.json", "model.safetensors"
RETRIEVAL, QUERIES, HISTORY, IDS = "retrieval.json", "queries.json", "history.jsonl", "ids.safetensors"
PRETRAINING = "pretraining"  # a folder: what came before the stages, as `mercato.training.pretrain` leaves it
QUERY_TOWER, PRODUCT_TOWER = "query_tower.onnx", "product_tower.onnx"
_RETRIEVAL_MEND = 'put it back, or write {"min_cosine": null} into it and choose anew with `mercato tune`'
TEXT_CONFIGS = ("query_text.json", "product_text.json")  # of transformers, for torch alone
MONITOR = "validation/roc_auc"  # its name in the history of a run, which early stopping goes by


def load_recipe_and_featurizer(run: Path) -> tuple[Recipe, Featurizer]:
    """The recipe and featurizer of a run, which every encoder of it needs.

    Raises:
        MercatoError: the folder is not a run.
    """
    missing = [name for name in (RECIPE, SPEC, TOKENIZER, WEIGHTS) if not (run / name).is_file()]
    if missing:
        raise MercatoError(f"{run} is not a run: it has no {', '.join(missing)} (train one with `mercato train`)")
    with reading_run(run / RECIPE):
        recipe = Recipe.parse((run / RECIPE).read_text(), str(run / RECIPE))
    with reading_run(run / TOKENIZER):
        tokenizer: Tokenizer = load_tokenizer(run / TOKENIZER)
    with reading_run(run / SPEC):
        spec = FeatureSpec.load(run / SPEC)
        featurizer = Featurizer(spec, tokenizer, load_known_ids(run, spec))
    return recipe, featurizer


def reading_run(file: Path) -> AbstractContextManager[None]:
    """`mercato.manifest.reading` of a file of a run, by what makes it anew."""
    return reading(file, mend(file.parent, file.name))


def mend(run: Path, name: str) -> str:
    """What makes a file of a run good again."""
    if name in (QUERY_TOWER, PRODUCT_TOWER):
        return f"`mercato export {run}` makes it anew"
    return f"put it back, or train the run again: `mercato train {run / RECIPE} --market DIR --out NEW`"


def seal_run(run: Path) -> None:
    """Write a run's manifest: of the files that nothing but training and export writes, as they are now.

    The recipe is none of them: people change how a run is ranked in it.
    """
    written = (SPEC, TOKENIZER, WEIGHTS, QUERIES, IDS, QUERY_TOWER, PRODUCT_TOWER, IMAGE_MODEL, IMAGE_SPEC)
    write_manifest(run, [name for name in (*written, *TEXT_CONFIGS) if (run / name).is_file()])


def load_known_ids(run: Path, spec: FeatureSpec) -> KnownIds:
    """The ids that a run knows; none where its towers read none.

    Raises:
        MercatoError: they read some, and what they know is missing.
    """
    if "ids" not in (*spec.query_channels, *spec.product_channels):
        return {}
    with reading_run(run / IDS):
        return load_ids(run / IDS)


def save_min_cosine(run: Path, min_cosine: float | None) -> None:
    """Write the least cosine at which a product is worth retrieving; None where training could not tell."""
    (run / RETRIEVAL).write_text(json.dumps({"min_cosine": min_cosine}) + "\n")


def load_retrieval(run: Path) -> dict[str, Any]:
    """What `retrieval.json` says of how a run is searched.

    Raises:
        MercatoError: it cannot be read, is no JSON object, or its `min_cosine` is no cosine.
    """
    path = run / RETRIEVAL
    with reading(path, _RETRIEVAL_MEND):
        stored: Any = json.loads(path.read_text())
        if not isinstance(stored, dict):
            raise MercatoError(f"{path} is no JSON object")
        if not stored.keys() & {"min_cosine", "radius", "pages"}:
            raise MercatoError(f"{path}: min_cosine: missing")
    least = stored.get("min_cosine", stored.get("radius"))
    if least is not None and not (type(least) in (int, float) and -1 <= least <= 1):
        raise MercatoError(f"{path}: min_cosine: must be a number from -1 to 1, or null")
    return stored


def load_min_cosine(run: Path) -> float | None:
    """What `save_min_cosine` wrote; older runs call it `radius`."""
    stored = load_retrieval(run)
    found: float | None = stored.get("min_cosine", stored.get("radius"))
    return found


def monitored(row: Mapping[str, Any]) -> tuple[str, float] | None:
    """The metric that early stopping goes by, as people call it, and its value in a row of the history.

    None where nothing validated. Rows without a monitor of their own are of an earlier version: it was the ROC AUC.
    """
    monitor = row.get("monitor", {"metric": MONITOR, "name": "ROC AUC"})
    return (monitor["name"], float(row[monitor["metric"]])) if monitor["metric"] in row else None


def read_history(run: Path) -> list[dict[str, Any]]:
    """What training logged, or pretraining, a row an epoch (`mercato.training.history`); nothing before it began."""
    log = run / HISTORY
    return [json.loads(line) for line in log.read_text().splitlines()] if log.is_file() else []


def load_image_encoder(run: Path, threads: int = 1) -> ImageEncoder | None:
    """The run's image encoder; None where its market brought image vectors, or the recipe has no images."""
    if not any((run / name).exists() for name in (IMAGE_MODEL, IMAGE_SPEC)):
        return None
    with reading_run(run / IMAGE_SPEC):
        read_spec(run)
    with reading_run(run / IMAGE_MODEL):
        return ImageEncoder(run, threads)


def load_head_queries(run: Path) -> list[str]:
    """The classes of the run's classification head, in its order; none where it was trained without."""
    if not (run / QUERIES).is_file():
        return []
    with reading_run(run / QUERIES):
        queries = json.loads((run / QUERIES).read_text())
        if not (isinstance(queries, list) and all(isinstance(query, str) for query in queries)):
            raise MercatoError(f"{run / QUERIES} is no list of texts")
    return queries


def load_query_head(run: Path) -> QueryHead | None:
    """The run's classification head, of whose weights nothing else is read; None where it was trained without.

    Raises:
        MercatoError: the run's list of queries is not the one that its head was trained on.
    """
    if not (run / QUERIES).is_file():
        return None
    queries = load_head_queries(run)
    with reading_run(run / WEIGHTS), safe_open(run / WEIGHTS, framework="numpy") as tensors:
        weight_YD, bias_Y = tensors.get_tensor("head.weight"), tensors.get_tensor("head.bias")
    if len(queries) != len(bias_Y):
        raise MercatoError(f"{run / QUERIES} lists {len(queries):,} queries, but the run's head has {len(bias_Y):,}")
    return QueryHead(queries, weight_YD, bias_Y)
