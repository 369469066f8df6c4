"""Every metric that a market's tables allow, for an encoder, BM25, random and any other encoder, with intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa

from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.baselines.bm25 import BM25, FIELDS
from mercato.evaluation.dataset import EARLIER, EvaluationSet, LabelledPairs, Split
from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.evaluation.metrics.batch_recall import diagonal_in_top, draw_batches
from mercato.evaluation.metrics.bootstrap import (
    RESAMPLES,
    Interval,
    Statistic,
    interval,
    paired_interval,
    point,
    pooled_auc,
    query_mean,
    resample,
)
from mercato.evaluation.metrics.knn import recall_and_precision
from mercato.evaluation.metrics.ndcg import ndcg
from mercato.evaluation.metrics.recall import recall_at_k
from mercato.evaluation.metrics.roc_auc import per_query_roc_auc
from mercato.evaluation.systems import LexicalSystem, RandomSystem, System, encode
from mercato.features.drop import COLUMNS
from mercato.progress import track
from mercato.runs.encoder import Encoder, RunEncoder

OURS = "mercato"
RESERVED = {OURS, "bm25", "random", "popular"}  # the last is a baseline of query prediction
PARTS = ("relevance", "engagement", "batch", "knn", "unseen")

Tree = dict[str, Any]


def evaluate(
    encoder: Encoder,
    market: Market,
    *,
    split: Split = "test",
    seed: int = 0,
    pairs: pl.DataFrame | None = None,
    withhold: Sequence[str] = (),
    others: Mapping[str, Encoder] | None = None,
) -> Tree:
    """Measure an encoder on a market: the object that `mercato evaluate --json` prints.

    Use `Evaluation.of(…)` where the report's details are wanted too: nothing is then encoded twice.

    Args:
        encoder: the model.
        market: judgments give `relevance`; pairs give `engagement`, `batch` and `knn`.
        split: `test` (judgments of the test split, pairs of the future) or `validation` (both, of that split).
        seed: of the bootstrap, the batches and the random baseline.
        pairs: held-out pairs, in place of the market's pairs table.
        withhold: product columns that every system must do without, e.g. the title where the queries were made of it;
            without `images` there are no vectors of them either, and no count.
        others: more encoders to compare with, by name; they appear under `baselines`.

    Returns:
        {"relevance", "engagement", "batch", "knn", "unseen": {metric: value},
        "baselines": {name: {part: {metric: value}}}, "n": {counts, seed},
        "intervals": {the same tree with [low, high]; "differences": {name: ours - theirs}}}.
        A part whose table is missing and a metric that is undefined are absent.

    Raises:
        MercatoError: no table to measure on, a broken table, or an encoder that returns NaN.
    """
    return Evaluation.of(
        encoder, market, split=split, seed=seed, pairs=pairs, withhold=withhold, others=others
    ).metrics()


@dataclass(frozen=True)
class Evaluation:
    """Encoded systems and the questions put to them; `systems` holds ours (`mercato`), others, `bm25`, `random`."""

    market: Market
    tasks: EvaluationSet
    systems: dict[str, System]
    seed: int

    @classmethod
    def of(
        cls,
        encoder: Encoder,
        market: Market,
        *,
        split: Split = "test",
        seed: int = 0,
        pairs: pl.DataFrame | None = None,
        withhold: Sequence[str] = (),
        others: Mapping[str, Encoder] | None = None,
        products: pa.Table | None = None,
        baselines: bool = True,
    ) -> Self:
        """Read the questions and encode queries and products once for each encoder (arguments as `evaluate`).

        `products` stands in for the market's table, the same rows, e.g. with photos already turned into vectors.
        Without `baselines` there is no BM25 and no random. To a run, listings are as old as where the split begins.
        """
        reserved = RESERVED & set(others or {})
        if reserved:
            raise MercatoError(f"an encoder to compare with cannot be called {sorted(reserved)[0]!r}")
        tasks = EvaluationSet.read(market, split, pairs)
        if tasks.relevance is None and tasks.batch is None:
            raise MercatoError(f"{market.path} has nothing to evaluate on: no {split} judgments, no engaged pairs")
        products = _without(market.arrow("products") if products is None else products, withhold)
        moment = split_cutoff(market, EARLIER[split])
        systems: dict[str, System] = {}
        for name, model in {OURS: encoder, **(others or {})}.items():
            with model.at(moment) if isinstance(model, RunEncoder) else nullcontext():
                systems[name] = encode(model, name, tasks.queries, products, tasks.rows)
        if baselines:
            lexical = BM25(products.select(["product_id", *FIELDS]))
            systems["bm25"] = LexicalSystem(lexical, tasks.queries["query"].to_list())
            systems["random"] = RandomSystem(products.num_rows, seed)
        return cls(market, tasks, systems, seed)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that the market's tables allow."""
        return tuple(part for part in PARTS if self._lists(part) is not None)

    def metrics(self) -> Tree:
        """Every figure and interval, as `evaluate` returns them."""
        values: dict[str, Tree] = {name: {} for name in self.systems}
        intervals: dict[str, Tree] = {name: {} for name in self.systems}
        differences: dict[str, Tree] = {name: {} for name in self.systems if name != OURS}
        counts: Tree = {
            "products": len(self.tasks.product_ids),
            "queries": len(self.tasks.queries),
            "resamples": RESAMPLES,
            "seed": self.seed,
        }
        steps = [(part, name) for part in self.parts for name in self.systems]
        ours: dict[str, FloatArray] = {}  # the replicates of our figures in the part at hand
        for part, name in track(steps, "metrics and intervals"):
            statistics, counts[part] = self.part(part, name)
            if name == OURS:
                weights_RQ = resample(counts[part]["queries"], self.seed)
            for metric, statistic in statistics.items():
                value = point(statistic, counts[part]["queries"])
                if value is None:
                    continue
                values[name].setdefault(part, {})[metric] = value
                replicates_R = statistic(weights_RQ)
                intervals[name].setdefault(part, {})[metric] = _pair(interval(replicates_R))
                if name == OURS:
                    ours[metric] = replicates_R
                else:
                    difference = paired_interval(ours[metric], replicates_R)
                    differences[name].setdefault(part, {})[metric] = _pair(difference)
        return {
            **values.pop(OURS),
            "baselines": values,
            "n": counts,
            "intervals": {**intervals.pop(OURS), "baselines": intervals, "differences": differences},
        }

    def part(self, part: str, name: str) -> tuple[dict[str, Statistic], Tree]:
        """One part's metrics for one system, as statistics over the part's queries, and the part's counts."""
        lists, system = self._lists(part), self.systems[name]
        assert lists is not None, part
        if part == "relevance":
            return _relevance(system, lists, self.market.config.relevant_grade)
        if part == "engagement":
            return _engagement(system, lists)
        if part == "batch":
            return _batch(system, lists, self.tasks.queries, self.seed)
        return _knn(self.top(name, lists.query_rows, 100), lists, len(self.tasks.product_ids))

    def top(self, name: str, queries_Q: IntArray, k: int) -> IntArray:
        """The k best products of each query by one system, within the areas that `EvaluationSet.areas` draws."""
        found_QK = np.full((len(queries_Q), k), -1, dtype=np.int64)
        for places, among_M in self.tasks.areas(queries_Q):
            found_QK[places] = self.systems[name].top(queries_Q[places], k, among_M)
        return found_QK

    def _lists(self, part: str) -> LabelledPairs | None:
        tasks = self.tasks
        return {
            "relevance": tasks.relevance,
            "engagement": tasks.engagement,
            "batch": tasks.batch,
            "knn": tasks.engaged,
            "unseen": tasks.unseen,
        }[part]


def _without(products: pa.Table, fields: Sequence[str]) -> pa.Table:
    for field in fields:
        columns = [name for name in COLUMNS.get(field, (field,)) if name in products.column_names]
        if not columns or field == "product_id":
            raise MercatoError(f"cannot withhold {field!r}: no such column of products")
        for name in columns:
            kind = products.schema.field(name)
            empty = pa.array([""] * products.num_rows) if name == "title" else pa.nulls(products.num_rows, kind.type)
            products = products.set_column(products.column_names.index(name), kind, empty)
    return products


def _pair(span: Interval | None) -> list[float] | None:
    return None if span is None else [*span]  # a list, as in JSON


def _relevance(system: System, lists: LabelledPairs, relevant_grade: float) -> tuple[dict[str, Statistic], Tree]:
    groups_P, labels_P = lists.groups, lists.grades >= relevant_grade
    scores_P = system.score(lists.queries, lists.products)
    statistics = {
        "roc_auc": pooled_auc(groups_P, labels_P, scores_P),
        "roc_auc_per_query": query_mean(per_query_roc_auc(groups_P, labels_P, scores_P)),
        "ndcg@10": query_mean(ndcg(groups_P, lists.grades, scores_P, 10)),
        "recall@10": query_mean(recall_at_k(groups_P, labels_P, scores_P, 10)),
    }
    return statistics, {**_counts(lists), "relevant": int(labels_P.sum())}


def _engagement(system: System, lists: LabelledPairs) -> tuple[dict[str, Statistic], Tree]:
    groups_P, labels_P = lists.groups, lists.grades >= 1
    scores_P = system.score(lists.queries, lists.products)
    statistics = {
        "roc_auc": pooled_auc(groups_P, labels_P, scores_P),
        "roc_auc_per_query": query_mean(per_query_roc_auc(groups_P, labels_P, scores_P)),
    }
    return statistics, {**_counts(lists), "engaged": int(labels_P.sum())}


def _batch(system: System, lists: LabelledPairs, queries: pl.DataFrame, seed: int) -> tuple[dict[str, Statistic], Tree]:
    texts = queries["query"].rank("dense").cast(pl.Int64).to_numpy()  # one text in two countries is one query here
    batches = draw_batches(texts[lists.queries], lists.products, seed)
    grids = [system.grid(lists.queries[pairs], lists.products[pairs]) for pairs in batches]
    statistics = {
        f"recall@{k}": query_mean(np.concatenate([diagonal_in_top(grid, k) for grid in grids]).astype(np.float64))
        for k in (1, 10)
    }
    asked = sum(len(pairs) for pairs in batches)
    size = max(len(pairs) for pairs in batches)
    return statistics, {"queries": asked, "pairs": asked, "batch_size": size, "split": lists.split}


def _knn(top_QK: IntArray, lists: LabelledPairs, catalogue: int) -> tuple[dict[str, Statistic], Tree]:
    recall10_Q, precision10_Q = recall_and_precision(top_QK, lists.groups, lists.products, catalogue, 10)
    recall100_Q, _ = recall_and_precision(top_QK, lists.groups, lists.products, catalogue, 100)
    statistics = {
        "recall@10": query_mean(recall10_Q),
        "recall@100": query_mean(recall100_Q),
        "precision@10": query_mean(precision10_Q),
    }
    return statistics, _counts(lists)


def _counts(lists: LabelledPairs) -> Tree:
    return {
        "queries": len(lists.query_rows),
        "pairs": len(lists.queries),
        "split": lists.split,
        "unknown_products": lists.unknown,
    }
