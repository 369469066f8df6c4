"""`mercato rank`: learn to order what a run retrieves, and measure that order against the cosine's.

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
from mercato.ranking import gbdt
from mercato.ranking.counting import count
from mercato.ranking.dataset import RankingSet, displayed, judged
from mercato.ranking.features import NAMES, features
from mercato.ranking.ranker import CARD, FOLDER, STATISTICS, TREES, predicted, session
from mercato.ranking.statistics import Statistics
from mercato.ranking.system import RankedSearch
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import open_index
from mercato.retrieval.protocol import Index
from mercato.runs.encoder import Encoder
from mercato.runs.folder import load_recipe_and_featurizer
from mercato.runs.onnx_encoder import OnnxEncoder

COSINE = "cosine"  # what the ranker is measured against: the same search in the order of the cosine
PARITY = 1e-5  # by which a score of ONNX may differ from LightGBM's


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
        gains: Sequence[float] = settings.trees.gains
        if len(lists):
            learned = displayed(lists.filter(pl.col("split") == "validation"), encoder, index, counts[0])
        else:
            as_of = split_cutoff(market, EARLIER["validation"])
            learned, gains = judged(_judgments(market), as_of, encoder, index, counts[0])
        if not len(learned.grades_P) or learned.grades_P.min() == learned.grades_P.max():
            raise MercatoError(f"{market.path}: what the ranker would learn from is all alike: nothing is better there")
        note(f"  learning from {len(learned.sizes):,} lists of {len(learned.grades_P):,} products")
        booster = gbdt.fit(learned, gains, settings.trees, seed)
        trees = _exported(booster, learned)
        _save(run, settings, counts[1], trees)
        metrics = _measured(trees, counts[1], encoder, index, market, seed)
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


def _exported(booster: Any, learned: RankingSet) -> bytes:
    trees = gbdt.to_onnx(booster)
    some_PF = learned.features_PF[:4096]
    apart = float(np.abs(predicted(session(trees), some_PF) - booster.predict(some_PF)).max())
    if not apart <= PARITY:
        raise MercatoError(f"the exported trees score otherwise than LightGBM's, by up to {apart:.2g}")
    return trees


def _save(run: Path, settings: Ranking, statistics: Statistics, trees: bytes) -> None:
    """Whole or not at all."""
    fresh = Path(mkdtemp(prefix=f".{FOLDER}.", dir=run))
    statistics.save(fresh / STATISTICS)
    (fresh / TREES).write_bytes(trees)
    card = {"run": run_fingerprint(run), "features": NAMES, "settings": settings.model_dump(mode="json")}
    (fresh / CARD).write_text(json.dumps(card, indent=2))
    shutil.rmtree(run / FOLDER, ignore_errors=True)
    fresh.chmod(0o755)
    fresh.rename(run / FOLDER)


def _measured(
    trees: bytes, statistics: Statistics, encoder: Encoder, index: Index, market: Market, seed: int
) -> Metrics:
    dataset = EvaluationSet.read(market, "test")
    running = session(trees)
    as_of: datetime = split_cutoff(market, EARLIER["test"])
    by_trees = RankedSearch(
        lambda asked, hits: predicted(running, features(asked, hits, statistics)),
        encoder,
        index,
        dataset.queries,
        dataset.product_ids,
        as_of,
    )
    systems: dict[str, System] = {OURS: by_trees, COSINE: by_trees.by(lambda _, hits: hits.cosine_H)}
    return Evaluation(market, dataset, systems, seed).metrics()
