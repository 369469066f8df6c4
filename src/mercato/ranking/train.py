"""`mercato rank`: learn to order what a run retrieves, in two stages, and measure their orders against the cosine's.

The towers learned from the train split, so that their cosines of its pairs are better than those of any pair to come: a
ranker that saw these would trust the cosine too much. It learns from the validation split's lists, by the counts of the
train split; and is measured, and serves, by the counts of both, on what neither has seen.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.catalogue.belonging import check_made_by
from mercato.catalogue.fingerprints import run_fingerprint
from mercato.config.ranking import Ranking
from mercato.data.market import Market
from mercato.data.mining import SPLITS
from mercato.data.normalize import normalize
from mercato.data.pairs import split_cutoff
from mercato.data.schema import LISTS
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EARLIER, EvaluationSet, Split
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.arrays import IntArray
from mercato.evaluation.metrics.registry import SEARCH_PARTS
from mercato.evaluation.metrics.roc_auc import per_query_roc_auc
from mercato.evaluation.results import OURS, Metrics
from mercato.evaluation.systems import System
from mercato.files import atomic_directory
from mercato.manifest import write_manifest
from mercato.progress import note
from mercato.ranking import dlrm, gbdt, linear
from mercato.ranking.calibration import StepCalibration, calibrated
from mercato.ranking.counting import count
from mercato.ranking.dataset import RankingSet, displayed, judged
from mercato.ranking.features import IDS, NAMES, VERSION, require_features
from mercato.ranking.linear import Linear
from mercato.ranking.ranker import (
    CARD,
    DLRM,
    FOLDER,
    LINEAR,
    METRICS,
    STATISTICS,
    TREES,
    Ranker,
    chances,
    features_version,
    predicted,
    session,
)
from mercato.ranking.statistics import Statistics
from mercato.ranking.system import CANDIDATES, RankedSearch
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import open_index
from mercato.retrieval.protocol import Index
from mercato.runs.encoder import Encoder, RunEncoder
from mercato.runs.folder import load_recipe_and_featurizer
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.query_head import QueryHead

Shares = dict[str, float]

COSINE = "cosine"  # what the ranker is measured against: the same search in the order of the cosine
PARITY = 1e-5  # by which a score of ONNX may differ from LightGBM's, or a chance from torch's
_SOME = 4096  # rows that parity and importance are looked at on


@dataclass(frozen=True)
class Ranked:
    """What `mercato rank` found: figures, and what each stage goes by, as shares of all, the largest first."""

    metrics: Metrics
    gains: Shares  # of each feature in the trees' splits, or of its weight
    shap: Shares  # the mean size of each feature's SHAP values in stage 1's scores (Lundberg & Lee, NeurIPS 2017)
    network: Shares  # the mean change of the network's worth where a feature, stage 1's score or an id is unknown
    calibration: list[StepCalibration]  # of stage 2's chances on the future's lists; empty where either is not there

    def measured(self) -> dict[str, Any]:
        """What is left in the run: `METRICS`."""
        return self.metrics.as_dict() | {"calibration": [asdict(step) for step in self.calibration]}

    def as_dict(self) -> dict[str, Any]:
        """What `mercato rank --json` prints."""
        return self.measured() | {"gains": self.gains, "shap": self.shap, "network": self.network}


@dataclass(frozen=True, eq=False)
class Learned:
    """The stages as they serve and as they are kept, the first as it was trained, and what taught them."""

    ranker: Ranker
    models: dict[str, bytes]  # ONNX, by the name of its file
    first: Any  # LightGBM's booster, or `Linear`
    rows: RankingSet


@dataclass(frozen=True, eq=False)
class Lessons:
    """What a market's log, or its judgments, can teach a ranker of what an index holds."""

    logged: bool  # from the log: lists, which teach both stages; judgments teach a linear first one
    rows: RankingSet
    gains: Sequence[float]  # what its grades are worth
    before: Statistics  # by which it learns
    known: Statistics  # by which it serves
    head: QueryHead | None  # the run's
    version: str  # of its features

    @classmethod
    def of(cls, market: Market, encoder: RunEncoder, index: Index, gains: Sequence[float]) -> Self:
        """Those of the validation split; `gains` are of the log's grades.

        Raises:
            MercatoError: there are none, or nothing is better than anything else.
        """
        lists = _lists(market)
        before, known = _counted(lists, market, index)
        head, version = encoder.query_head, features_version(index.fingerprint.split()[0])
        if len(lists):
            rows = displayed(lists.filter(pl.col("split") == "validation"), encoder, index, before, head, version)
        else:
            as_of = split_cutoff(market, SPLITS)
            judgments = _judgments(market, encoder.recipe.pairs.market)
            rows, gains = judged(judgments, as_of, encoder, index, before, head)
        if not (rows.tells_apart if len(lists) else len(np.unique(rows.grades_P)) > 1):
            raise MercatoError(f"{market.path}: what the ranker would learn from is all alike: nothing is better there")
        note(f"  learning from {len(rows.sizes):,} lists of {len(rows.grades_P):,} products")
        return cls(bool(len(lists)), rows, gains, before, known, head, version)

    def learned(self, settings: Ranking, seed: int) -> Learned:
        """Train both stages; the first alone by judgments."""
        rows = self.rows.without(settings.without)
        first = gbdt.fit(rows, self.gains, settings.trees, seed) if self.logged else linear.fit(rows, self.gains)
        models = _first_stage(first, rows)
        models |= _second_stage(rows, self.gains, settings, seed) if self.logged else {}
        ranker = Ranker.of(models, self.known, self.gains, settings, self.head, self.version)
        return Learned(ranker, models, first, rows)


def rank(run: Path, market: Market, url: str, seed: int = 0) -> Ranked:
    """Train both stages of a run's ranker on a market's log, measure them, and leave them in the run.

    Where a market has no log, its judgments of the validation split train the first stage alone.

    Raises:
        MercatoError: the market has nothing to learn from, the index was not made by this run, the recipe names a
            feature that there is not, or the order that was learned loses more relevance than it allows. Nothing is
            written then.
    """
    settings = load_recipe_and_featurizer(run)[0].ranking
    require_features(settings.without)
    encoder = OnnxEncoder(run, market.path)
    with open_index(url, read_only=True) as index:
        check_made_by(run, market, url, index.fingerprint)
        lessons = Lessons.of(market, encoder, index, settings.gains)
        learned = lessons.learned(settings, seed)
        if lessons.logged and market.has("judgments"):
            _check_relevance(replace(learned.ranker, statistics=lessons.before), encoder, index, market)
        dataset = EvaluationSet.read(market, "test")
        metrics = _measured(learned.ranker, encoder, index, market, dataset, seed)
        calibration = _calibration(learned.ranker, encoder, index, market, dataset)
    some = learned.rows.only(np.arange(len(learned.rows.grades_P)) < _SOME)
    if isinstance(learned.first, Linear):
        gains_F, shap_PF = np.abs(learned.first.weights_F), learned.first.parts(some.features_PF)
    else:
        gains_F = learned.first.feature_importance("gain")
        shap_PF = np.asarray(learned.first.predict(some.features_PF, pred_contrib=True))[:, :-1]  # the last: the mean
    shares = _shares(gains_F), _shares(np.abs(shap_PF).mean(axis=0)), _network_shares(learned.ranker, some)
    found = Ranked(metrics, *shares, calibration)
    card = {"run": run_fingerprint(run), "version": VERSION, "features": NAMES, "gains": [*lessons.gains]}
    with atomic_directory(run / FOLDER) as fresh:
        lessons.known.save(fresh / STATISTICS)
        for name, model in learned.models.items():
            (fresh / name).write_bytes(model)
        (fresh / CARD).write_text(json.dumps(card | {"settings": settings.model_dump(mode="json")}, indent=2))
        (fresh / METRICS).write_text(json.dumps(found.measured()))
        write_manifest(fresh, [STATISTICS, *learned.models])  # the card may be edited
    return found


def _shares(sizes_F: NDArray[np.floating], names: Sequence[str] = NAMES) -> Shares:
    shares_F = sizes_F / (sizes_F.sum() or 1.0)
    return {names[place]: float(shares_F[place]) for place in np.argsort(-shares_F, kind="stable")}


def _network_shares(ranker: Ranker, some: RankingSet) -> Shares:
    if ranker.dlrm is None:
        return {}
    trees_P = predicted(ranker.first, some.features_PF)
    worth_P = ranker.worths(some.features_PF, trees_P, some.ids_PT)

    def change(without_P: NDArray[np.float32]) -> float:
        return float(np.abs(worth_P - without_P).mean())

    changes = [change(ranker.worths(some.features_PF, np.full_like(trees_P, np.nan), some.ids_PT))]
    for place in range(len(NAMES)):
        features_PF = some.features_PF.copy()
        features_PF[:, place] = np.nan
        changes.append(change(ranker.worths(features_PF, trees_P, some.ids_PT)))
    for place in range(len(IDS)):
        ids_PT = some.ids_PT.copy()
        ids_PT[:, place] = 0
        changes.append(change(ranker.worths(some.features_PF, trees_P, ids_PT)))
    return _shares(np.array(changes), ("trees", *NAMES, *(f"id of {name.removesuffix('_id')}" for name in IDS)))


def _lists(market: Market) -> pl.DataFrame:
    """The displayed lists; none where no log tells what stood where, and judgments teach.

    What a rule pinned is left out of them: it stood there for no feature's sake, and its badge is clicked too. What
    exploration placed teaches like all others: chance put it there, and the position's share is taken from its clicks.
    """
    if not market.has("lists"):
        is_mined = market.has("pairs")  # a log without positions gives these alone
        if not market.has("judgments") or (market.has("events") and not is_mined):
            raise MercatoError(
                f"{market.path} has no lists of what searches displayed: `mercato mine {market.path}` first"
                + " (a log without positions gives none)" * is_mined
            )
        if market.has("events"):
            note(
                "  the log gave no lists, as it tells no positions: judgments teach the first stage alone (was it mined"
                " before there were lists, `mercato mine` finds them)"
            )
        none = pl.from_arrow(LISTS.empty_table())
        assert isinstance(none, pl.DataFrame)
        return none
    lists = market.frame("lists").filter(pl.col("placed_by").ne_missing("pin"))
    lists = lists.with_columns(pl.col("split").fill_null("train"))
    for split in ("train", "validation"):
        if lists.filter((pl.col("split") == split) & pl.col("depth").is_not_null()).is_empty():
            raise MercatoError(
                f"{market.path}, table lists: none of the {split} split of which the outcome is known; the log is too"
                " short to rank by"
            )
    return lists


def _judgments(market: Market, pairs_taught: bool) -> pl.DataFrame:
    """Those of the validation split but of queries whose pairs taught the towers, which know them too well."""
    found = market.frame("judgments").filter(pl.col("split") == "validation")
    if found.is_empty():
        raise MercatoError(
            f"{market.path}: no log, and no judgments of the split `validation`, which is what a ranker may learn from"
        )
    if len(rows := found.select((~pl.col("grade").is_finite().fill_null(False)).arg_true()).to_series()):
        raise MercatoError(f"table judgments, split validation, row {rows[0]}, column grade: not a number")
    if pairs_taught and market.has("pairs"):
        pairs = market.frame("pairs", ["query", "split"]).filter(pl.col("split").fill_null("train") == "train")
        taught = {normalize(query) for query in pairs["query"].drop_nulls().unique()}
        found = found.filter(pl.Series([normalize(query) not in taught for query in found["query"]], dtype=pl.Boolean))
        if found.is_empty():
            raise MercatoError(
                f"{market.path}: every query that is judged in the split `validation` is among the pairs that trained"
                " the towers, whose cosines of it are too good to learn from: hold whole queries out of the pairs"
            )
    return found


def _counted(lists: pl.DataFrame, market: Market, index: Index) -> list[Statistics]:
    """What was known before the validation split, and before the test split."""
    ids: list[str] = market.frame("products", ["product_id"])["product_id"].unique(maintain_order=True).to_list()
    catalogue = index.lookup(Expression(), ids)
    columns = catalogue.signals()
    splits: tuple[Split, ...] = ("validation", "test")
    return [
        count(
            lists.filter(pl.col("split").is_in(EARLIER[split])),
            catalogue.product_ids,
            columns,
            split_cutoff(market, EARLIER[split]),
            market.config,
        )
        for split in splits
    ]


def _first_stage(first: Any, learned: RankingSet) -> dict[str, bytes]:
    """The trees or the linear model as ONNX, by the name of its file."""
    name, model = (LINEAR, first.to_onnx()) if isinstance(first, Linear) else (TREES, gbdt.to_onnx(first))
    some_PF = learned.features_PF[:_SOME]
    _check_parity("first stage", predicted(session(model), some_PF), first.predict(some_PF))
    return {name: model}


def _second_stage(learned: RankingSet, gains: Sequence[float], settings: Ranking, seed: int) -> dict[str, bytes]:
    """The network as ONNX, by the name of its file; nothing where there are too few queries to hold some out."""
    scores_P = gbdt.out_of_fold(learned, gains, settings.trees, settings.dlrm.folds, seed)
    if scores_P is None:
        note("  too few queries for a second stage")
        return {}
    network = dlrm.fit(learned, scores_P, len(gains) - 1, settings.dlrm, seed)
    model = dlrm.to_onnx(network)
    features, ids = (some[:_SOME] for some in dlrm.inputs(learned, scores_P, settings.dlrm))
    with torch.inference_mode():
        expected: Tensor = network(features, ids)
    _check_parity("network", chances(session(model), features.numpy(), ids.numpy()), expected.numpy())
    return {DLRM: model}


def _check_parity(what: str, found: NDArray[np.float32], expected: NDArray[np.floating]) -> None:
    apart = float(np.abs(found - expected).max())
    if not apart <= PARITY:
        raise MercatoError(f"the exported {what} scores otherwise than it was trained to, by up to {apart:.2g}")


def _check_relevance(ranker: Ranker, encoder: Encoder, index: Index, market: Market) -> None:
    """Hold the order on the validation judgments, of which it has not learned, to the recipe's bound."""
    dataset = EvaluationSet.read(market, "validation", lists=False)
    if (pairs := dataset.relevance) is None:
        return
    ranked = _search(ranker, encoder, index, market, dataset)
    labels_P = pairs.grades >= market.config.relevant_grade
    cosine, ours = (
        float(np.nanmean(per_query_roc_auc(pairs.groups, labels_P, system.score(pairs.queries, pairs.products))))
        for system in (ranked.by(COSINE), ranked)
    )
    if not np.isfinite([cosine, ours]).all():
        note("  no validation query is judged both ways: what the order does to relevance is not known")
        return
    lost, bound = cosine - ours, ranker.settings.relevance_bound
    if lost > bound:
        raise MercatoError(
            f"the order that was learned loses {lost:.3f} of the relevance ROC AUC per query on the validation"
            f" judgments, and ranking.relevance_bound is {bound}: nothing is written. Allow more in the recipe, or"
            " weigh clicks less beside deeper steps (ranking.gains)"
        )


def _measured(
    ranker: Ranker, encoder: Encoder, index: Index, market: Market, dataset: EvaluationSet, seed: int
) -> Metrics:
    """Both stages beside the first alone and the cosine, in all but `batch`: no search orders one's products."""
    ranked = _search(ranker, encoder, index, market, dataset)
    systems: dict[str, System] = {OURS: ranked}
    systems |= {order: ranked.by(order) for order in (ranker.stage, COSINE) if order != ranked.order}
    return Evaluation(
        market, dataset, systems, seed, wanted=[part for part in SEARCH_PARTS if part != "batch"], depth=CANDIDATES
    ).metrics()


def _calibration(
    ranker: Ranker, encoder: Encoder, index: Index, market: Market, dataset: EvaluationSet
) -> list[StepCalibration]:
    if ranker.dlrm is None or dataset.lists is None:
        return []
    steps = market.config.engagement.steps[: len(ranker.worth_K)]
    search = replace(
        _search(ranker, encoder, index, market, dataset),
        orders=lambda asked, hits: dict(zip(steps, ranker.told(asked, hits).T, strict=False)),
    )

    def chances(queries_P: IntArray, products_P: IntArray) -> NDArray[np.floating]:
        return np.stack([search.by(step).score(queries_P, products_P) for step in steps], axis=1)

    return calibrated(dataset.lists, chances, steps)


def _search(ranker: Ranker, encoder: Encoder, index: Index, market: Market, dataset: EvaluationSet) -> RankedSearch:
    """The search as the ranker's last stage orders it. No listing is of a day after the one that it has its age by."""
    return RankedSearch(
        ranker.stage if ranker.dlrm is None else "dlrm",
        lambda asked, hits: {
            COSINE: hits.cosine_H,
            **{str(name): x_H for name, x_H in ranker.rank(asked, hits).stages.items()},
        },
        encoder,
        index,
        dataset.queries,
        dataset.product_ids,
        split_cutoff(market, SPLITS),
    )
