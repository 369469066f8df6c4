"""Query prediction: do people search for a product with the queries that the classification head predicts?

Letters: docs/notation.md; M are the products that somebody engaged with on a future day.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa

from mercato.data.normalize import normalize
from mercato.evaluation.baselines.bm25 import BM25
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.arrays import BoolArray, IntArray
from mercato.evaluation.metrics.bootstrap import Estimate, Interval, resample
from mercato.evaluation.metrics.metric import QueryMean
from mercato.evaluation.metrics.predicted_queries import DEPTH, predicted_queries
from mercato.evaluation.metrics.registry import PREDICTION_PARTS, QUERY_PREDICTION
from mercato.evaluation.results import OURS, ByMetric, Figure, Metrics, PartCounts
from mercato.evaluation.systems import VectorSystem
from mercato.runs.query_head import QueryHead

PART, NEW = PREDICTION_PARTS
BASELINES = ("bm25", "popular")


@dataclass(frozen=True, kw_only=True)
class QueryPrediction:
    """What was predicted for each product of the future split, best first, by the head and by the baselines.

    `bm25` takes the head's queries that share words with the title, `popular` the training days' commonest for all.
    """

    evaluation: Evaluation
    classes: int  # the queries that the head knows
    products_M: IntArray  # rows of the catalogue
    new_M: BoolArray  # nobody engaged with them on earlier days, so that no head can know them by heart
    truths: list[frozenset[str]]  # of each product the queries with which it was engaged, in normal form
    predicted: dict[str, list[list[str]]]  # system → M lists of at most DEPTH queries, in normal form
    probabilities: list[list[tuple[str, float]]]  # of ours, the queries as they are written in the head

    @classmethod
    def of(
        cls, head: QueryHead, evaluation: Evaluation, pairs: pl.DataFrame | None = None, titled: bool = True
    ) -> Self | None:
        """Predict for every product engaged on future days; None where there is none.

        Args:
            head: the run's.
            evaluation: its product vectors are read, and its engaged pairs are the truth.
            pairs: those that `evaluation` was given in place of the market's table, of every `split`.
            titled: False where every system has to do without titles.
        """
        engaged, ours = evaluation.dataset.engaged, evaluation.systems[OURS]
        if engaged is None or not isinstance(ours, VectorSystem):
            return None
        texts = [normalize(text) for text in evaluation.dataset.queries["query"].to_list()]
        queries_of: dict[int, set[str]] = {}
        for query, product in zip(engaged.queries.tolist(), engaged.products.tolist(), strict=True):
            queries_of.setdefault(product, set()).add(texts[query])
        products_M = np.array(sorted(queries_of), dtype=np.int64)
        probabilities = head.predict(ours.products[products_M], DEPTH)
        titles = evaluation.market.arrow("products", ["title"]).column("title").take(products_M).to_pylist()
        pairs = evaluation.market.frame("pairs") if pairs is None else pairs
        known = set(
            pairs.filter((pl.col("label") >= 1) & (pl.col("split").fill_null("train") != "future"))["product_id"]
        )
        product_ids = evaluation.dataset.product_ids
        return cls(
            evaluation=evaluation,
            classes=len(head.queries),
            products_M=products_M,
            new_M=np.array([product_ids[product] not in known for product in products_M.tolist()]),
            truths=[frozenset(queries_of[product]) for product in products_M.tolist()],
            predicted={
                OURS: [_distinct(query for query, _ in queries) for queries in probabilities],
                "bm25": _lexical(head.queries, [(title or "") if titled else "" for title in titles]),
                "popular": [_popular(pairs)] * len(products_M),
            },
            probabilities=probabilities,
        )

    def add_to(self, metrics: Metrics) -> Metrics:
        """These metrics with the part `understanding`; its intervals are over products.

        Where some of the products are new, and not all, a part `understanding_new` holds their figures.
        """
        metrics = self._add(PART, range(len(self.products_M)), metrics)
        if self.new_M.any() and not self.new_M.all():
            metrics = self._add(NEW, np.flatnonzero(self.new_M).tolist(), metrics)
        return metrics

    def _add(self, part: str, places: Sequence[int], metrics: Metrics) -> Metrics:
        truths = [self.truths[place] for place in places]
        weights_RM = resample(len(places), self.evaluation.seed)

        def measured(system: str) -> dict[str, Estimate]:
            given = predicted_queries([self.predicted[system][place] for place in places], truths)
            values = {metric.name: metric.compute(given) for metric in QUERY_PREDICTION}
            return {
                metric: Estimate(float(values_M.mean()), QueryMean(values_M)(weights_RM))
                for metric, values_M in values.items()
            }

        def figures(found: dict[str, Estimate]) -> ByMetric[Figure]:
            return {part: {metric: Figure.of(estimate) for metric, estimate in found.items()}}

        ours, baselines, differences = measured(OURS), dict(metrics.baselines), dict(metrics.differences)
        for name in BASELINES:
            theirs = measured(name)
            spans: ByMetric[Interval | None] = {
                part: {metric: (ours[metric] - estimate).interval for metric, estimate in theirs.items()}
            }
            baselines[name] = baselines.get(name, {}) | figures(theirs)
            differences[name] = differences.get(name, {}) | spans
        counts = PartCounts(
            products=len(places),
            queries=len(frozenset().union(*truths)),
            pairs=sum(map(len, truths)),
            head_queries=self.classes,
        )
        return replace(
            metrics,
            ours=metrics.ours | figures(ours),
            baselines=baselines,
            differences=differences,
            n=replace(metrics.n, parts=metrics.n.parts | {part: counts}),
        )


# --- baselines


def _popular(pairs: pl.DataFrame) -> list[str]:
    """The queries that the most products of the training days were engaged with."""
    train = pairs.filter((pl.col("label") >= 1) & (pl.col("split").fill_null("train") == "train"))
    queries = train.select(pl.col("query").map_elements(normalize, pl.String), "product_id").unique()
    counts = queries["query"].value_counts(name="n")
    return counts.sort(["n", "query"], descending=[True, False])["query"].head(DEPTH).to_list()


def _lexical(queries: Sequence[str], titles: Sequence[str]) -> list[list[str]]:
    """The head's queries by the words that they share with each title, the rare words first."""
    bm25 = BM25(pa.table({"product_id": queries, "title": queries}))
    return [_distinct(queries[row] for row in rows_K if row >= 0) for rows_K in bm25.top(titles, DEPTH)]


def _distinct(queries: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(map(normalize, queries)))
