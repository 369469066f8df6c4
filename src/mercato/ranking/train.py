"""`mercato rank`: learn to order what a run retrieves, in two stages, and measure their orders against the cosine's.

The towers learned from the train split, so that their cosines of its pairs are better than those of any pair to come: a
ranker that saw these would trust the cosine too much. It learns from the validation split's lists, by the counts of the
train split; and is measured, and serves, by the counts of both, on what neither has seen.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import numpy as np
import polars as pl
import torch
from torch import Tensor

from mercato.catalogue.indexing import run_fingerprint
from mercato.config.ranking import Ranking
from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.data.schema import LISTS
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EARLIER, EvaluationSet
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.results import OURS, Metrics
from mercato.evaluation.systems import System
from mercato.progress import note
from mercato.ranking import dlrm, gbdt
from mercato.ranking.counting import count
from mercato.ranking.dataset import RankingSet, displayed, judged
from mercato.ranking.features import NAMES
from mercato.ranking.ranker import CARD, DLRM, FOLDER, STATISTICS, TREES, Ranker, chances, predicted, session
from mercato.ranking.statistics import Statistics
from mercato.ranking.system import RankedSearch
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import open_index
from mercato.retrieval.protocol import Index
from mercato.runs.encoder import Encoder
from mercato.runs.folder import load_recipe_and_featurizer
from mercato.runs.onnx_encoder import OnnxEncoder

COSINE = "cosine"  # what the ranker is measured against: the same search in the order of the cosine
PARITY = 1e-5  # by which a score of ONNX may differ from LightGBM's, or a chance from torch's


@dataclass(frozen=True)
class Ranked:
    """What `mercato rank` found: figures, and how much each feature gained in the trees."""

    metrics: Metrics
    gains: dict[str, float]  # of the trees' splits, shares of all, the largest first

    def as_dict(self) -> dict[str, Any]:
        """What `mercato rank --json` prints."""
        return self.metrics.as_dict() | {"gains": self.gains}


def rank(run: Path, market: Market, url: str, seed: int = 0) -> Ranked:
    """Train the ranker of a run on a market's log, leave it in the run, and measure it.

    A market without a log is ranked by its judgments of the validation split.

    Raises:
        MercatoError: the market has nothing to learn from, or the index was not made by this run.
    """
    settings = load_recipe_and_featurizer(run)[0].ranking
    lists = _lists(market)
    encoder = OnnxEncoder(run, market.path)
    with open_index(url, read_only=True) as index:
        if index.fingerprint.split()[:1] != [run_fingerprint(run)]:
            raise MercatoError(f"{url} was not made by {run}: build it again with `mercato index {run}`")
        catalogue = index.lookup(Expression(), _product_ids(market))
        counts = [
            count(lists.filter(pl.col("split").is_in(splits)), catalogue.product_ids, catalogue.signals())
            for splits in (["train"], ["train", "validation"])
        ]
        gains: Sequence[float] = settings.gains
        if len(lists):
            learned = displayed(lists.filter(pl.col("split") == "validation"), encoder, index, counts[0])
        else:
            as_of = split_cutoff(market, EARLIER["validation"])
            learned, gains = judged(_judgments(market), as_of, encoder, index, counts[0])
        if not len(learned.grades_P) or learned.grades_P.min() == learned.grades_P.max():
            raise MercatoError(f"{market.path}: what the ranker would learn from is all alike: nothing is better there")
        note(f"  learning from {len(learned.sizes):,} lists of {len(learned.grades_P):,} products")
        booster = gbdt.fit(learned, gains, settings.trees, seed)
        models = {TREES: _exported_trees(booster, learned)}
        scores_P = gbdt.out_of_fold(learned, gains, settings.trees, settings.dlrm.folds, seed)
        if scores_P is None:
            note("  too few queries for a second stage")
        else:
            network = dlrm.fit(learned, scores_P, len(gains) - 1, settings.dlrm, seed)
            models[DLRM] = _exported_dlrm(network, dlrm.inputs(learned, scores_P, settings.dlrm))
        _save(run, settings, gains, counts[1], models)
        ranker = Ranker.of_run(run)
        assert ranker is not None
        metrics = _measured(ranker, encoder, index, market, seed)
        (run / FOLDER / "metrics.json").write_text(json.dumps(metrics.as_dict()))
    gained = dict(zip(booster.feature_name(), booster.feature_importance("gain").tolist(), strict=True))
    whole = sum(gained.values()) or 1.0
    return Ranked(metrics, {name: gained[name] / whole for name in sorted(gained, key=lambda name: -gained[name])})


def _lists(market: Market) -> pl.DataFrame:
    """The displayed lists; none where the market has no log and is ranked by its judgments."""
    if not market.has("lists"):
        if not market.has("judgments") or market.has("events"):
            raise MercatoError(
                f"{market.path} has no lists of what searches displayed: `mercato mine {market.path}` first"
            )
        none = pl.from_arrow(LISTS.empty_table())
        assert isinstance(none, pl.DataFrame)
        return none
    lists = market.frame("lists").with_columns(pl.col("split").fill_null("train"))
    for split in ("train", "validation"):
        if not (lists["split"] == split).any():
            raise MercatoError(
                f"{market.path}, table lists: none of the {split} split; the log is too short to rank by"
            )
    return lists


def _judgments(market: Market) -> pl.DataFrame:
    found = market.frame("judgments").filter(pl.col("split") == "validation")
    if found.is_empty():
        raise MercatoError(
            f"{market.path}: no log, and no judgments of the split `validation`, which is what a ranker may learn from"
        )
    return found


def _product_ids(market: Market) -> list[str]:
    ids: list[str] = market.frame("products", ["product_id"])["product_id"].unique(maintain_order=True).to_list()
    return ids


def _exported_trees(booster: Any, learned: RankingSet) -> bytes:
    trees = gbdt.to_onnx(booster)
    some_PF = learned.features_PF[:4096]
    apart = float(np.abs(predicted(session(trees), some_PF) - booster.predict(some_PF)).max())
    if not apart <= PARITY:
        raise MercatoError(f"the exported trees score otherwise than LightGBM's, by up to {apart:.2g}")
    return trees


def _exported_dlrm(network: dlrm.Network, inputs: tuple[Tensor, Tensor]) -> bytes:
    model = dlrm.to_onnx(network)
    features, ids = (some[:4096] for some in inputs)
    with torch.inference_mode():
        expected = network(features, ids).numpy()
    apart = float(np.abs(chances(session(model), features.numpy(), ids.numpy()) - expected).max())
    if not apart <= PARITY:
        raise MercatoError(f"the exported network's chances are other than torch's, by up to {apart:.2g}")
    return model


def _save(
    run: Path, settings: Ranking, gains: Sequence[float], statistics: Statistics, models: dict[str, bytes]
) -> None:
    """Whole or not at all."""
    fresh = Path(mkdtemp(prefix=f".{FOLDER}.", dir=run))
    statistics.save(fresh / STATISTICS)
    for name, model in models.items():
        (fresh / name).write_bytes(model)
    known = {"run": run_fingerprint(run), "features": NAMES, "gains": [*gains]}
    card = known | {"settings": settings.model_dump(mode="json")}
    (fresh / CARD).write_text(json.dumps(card, indent=2))
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    fresh.chmod(0o755)
    fresh.rename(run / FOLDER)


def _measured(ranker: Ranker, encoder: Encoder, index: Index, market: Market, seed: int) -> Metrics:
    """Both stages beside the first alone and the cosine."""
    dataset = EvaluationSet.read(market, "test")
    as_of: datetime = split_cutoff(market, EARLIER["test"])
    last = "trees" if ranker.dlrm is None else "dlrm"
    found = RankedSearch(
        last,
        lambda asked, hits: {**ranker.rank(asked, hits), COSINE: hits.cosine_H},
        encoder,
        index,
        dataset.queries,
        dataset.product_ids,
        as_of,
    )
    systems: dict[str, System] = {OURS: found, "trees": found.by("trees"), COSINE: found.by(COSINE)}
    if last == "trees":
        del systems["trees"]
    return Evaluation(market, dataset, systems, seed).metrics()
