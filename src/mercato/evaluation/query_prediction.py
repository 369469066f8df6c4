"""Product understanding: do people search for a product with the queries that the classification head predicts?

Shapes: G products that somebody engaged with on a future day, K ranks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa

from mercato.data.normalize import normalize
from mercato.evaluation.baselines.bm25 import BM25
from mercato.evaluation.details import product_tile
from mercato.evaluation.evaluate import OURS, Evaluation
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray
from mercato.evaluation.metrics.bootstrap import Interval, interval, paired_interval, query_mean, resample
from mercato.evaluation.systems import VectorSystem
from mercato.runs.query_head import QueryHead

PART, NEW = "understanding", "understanding_new"
PARTS = {PART: "", NEW: ", new"}  # how a figure of the part is called, after its metric
BASELINES = ("bm25", "popular")
DEPTH = 10


@dataclass(frozen=True)
class UnderstoodProduct:
    """A product with its likeliest queries: (query, probability, whether it came true); `asked` is what came true."""

    title: str
    price: str
    photo: str | None  # a data URI
    predicted: list[tuple[str, float, bool]]
    asked: list[str]


@dataclass(frozen=True)
class Understanding:
    """What was predicted for each product of the future split, best first, by the head and by the baselines.

    `bm25` takes the head's queries that share words with the title, `popular` the training days' commonest for all.
    """

    evaluation: Evaluation
    classes: int  # the queries that the head knows
    products_G: IntArray  # rows of the catalogue
    new_G: BoolArray  # nobody engaged with them on earlier days, so that no head can know them by heart
    truths_G: list[frozenset[str]]  # the queries with which they were engaged, in normal form
    predicted: dict[str, list[list[str]]]  # system → G lists of at most DEPTH queries, in normal form
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
            titled: False where titles are withheld from every system.
        """
        engaged, ours = evaluation.tasks.engaged, evaluation.systems[OURS]
        if engaged is None or not isinstance(ours, VectorSystem):
            return None
        texts = [normalize(text) for text in evaluation.tasks.queries["query"].to_list()]
        asked: dict[int, set[str]] = {}
        for query, product in zip(engaged.queries.tolist(), engaged.products.tolist(), strict=True):
            asked.setdefault(product, set()).add(texts[query])
        products_G = np.array(sorted(asked), dtype=np.int64)
        likely = head.predict(ours.products[products_G], DEPTH)
        titles = evaluation.market.arrow("products", ["title"]).column("title").take(products_G).to_pylist()
        pairs = evaluation.market.frame("pairs") if pairs is None else pairs
        known = set(
            pairs.filter((pl.col("label") >= 1) & (pl.col("split").fill_null("train") != "future"))["product_id"]
        )
        popular = _popular(pairs)
        return cls(
            evaluation,
            len(head.queries),
            products_G,
            np.array([evaluation.tasks.product_ids[product] not in known for product in products_G.tolist()]),
            [frozenset(asked[product]) for product in products_G.tolist()],
            {
                OURS: [_distinct(query for query, _ in queries) for queries in likely],
                "bm25": _lexical(head.queries, [(title or "") if titled else "" for title in titles]),
                "popular": [popular] * len(products_G),
            },
            likely,
        )

    def add_to(self, metrics: dict[str, Any]) -> None:
        """Put the part `understanding` into the tree of `Evaluation.metrics`; its intervals are over products.

        Where some of the products are new, and not all, a part `understanding_new` holds their figures.
        """
        self._add(PART, range(len(self.products_G)), metrics)
        if self.new_G.any() and not self.new_G.all():
            self._add(NEW, np.flatnonzero(self.new_G).tolist(), metrics)

    def _add(self, part: str, places: Sequence[int], metrics: dict[str, Any]) -> None:
        truths, intervals = [self.truths_G[place] for place in places], metrics["intervals"]
        weights_RG = resample(len(places), self.evaluation.seed)
        ours: dict[str, FloatArray] = {}
        for name in (OURS, *BASELINES):
            values_of = scores([self.predicted[name][place] for place in places], truths)
            replicates = {metric: query_mean(values_G)(weights_RG) for metric, values_G in values_of.items()}
            tree, spans = metrics, intervals
            if name == OURS:
                ours = replicates
            else:
                tree = metrics["baselines"].setdefault(name, {})
                spans = intervals["baselines"].setdefault(name, {})
                intervals["differences"].setdefault(name, {})[part] = {
                    metric: _pair(paired_interval(ours[metric], values_R)) for metric, values_R in replicates.items()
                }
            tree[part] = {metric: float(values_G.mean()) for metric, values_G in values_of.items()}
            spans[part] = {metric: _pair(interval(values_R)) for metric, values_R in replicates.items()}
        metrics["n"][part] = {
            "products": len(places),
            "queries": len(frozenset().union(*truths)),
            "pairs": sum(map(len, truths)),
            "head_queries": self.classes,
        }

    def examples(self, drawn: int = 6, depth: int = 6) -> list[UnderstoodProduct]:
        """Products drawn at random by the evaluation's seed, not picked by hand."""
        random = np.random.default_rng(self.evaluation.seed).permutation(len(self.products_G))[:drawn]
        rows = self.products_G[random]
        columns = ["title", "price", "currency", "images"]
        table = self.evaluation.market.arrow("products", columns).take(rows).to_pylist()
        return [
            UnderstoodProduct(
                *product_tile(self.evaluation, product),
                [(q, p, normalize(q) in self.truths_G[place]) for q, p in self.probabilities[place][:depth]],
                sorted(self.truths_G[place]),
            )
            for place, product in zip(random.tolist(), table, strict=True)
        ]


def _pair(span: Interval | None) -> list[float]:
    assert span is not None  # every product has queries, so that every figure is defined
    return [*span]  # a list, as in JSON


# --- kernel


def scores(predicted: Sequence[Sequence[str]], truths: Sequence[AbstractSet[str]]) -> Mapping[str, FloatArray]:
    r"""Precision@1, @5, @10 and recall@10 of each product's predicted queries.

    .. math:: P@K = |\{predicted_{1…K}\} \cap T| / K, \quad R@K = |\{predicted_{1…K}\} \cap T| / |T|

    A product that was found with fewer than K queries cannot reach a precision of 1: compare systems, not markets.

    Args:
        predicted: for each product distinct queries, best first; a missing place counts as a wrong one.
        truths: for each product the queries T with which it was engaged, at least one.

    Returns:
        Metric → float (G,) in [0, 1].
    """
    hits_GK = np.zeros((len(truths), DEPTH))
    for row, (queries, truth) in enumerate(zip(predicted, truths, strict=True)):
        hits_GK[row, : len(queries)] = [query in truth for query in queries[:DEPTH]]
    sizes_G = np.array([len(truth) for truth in truths], dtype=np.float64)
    precision = {f"precision@{k}": hits_GK[:, :k].sum(axis=1) / k for k in (1, 5, 10)}
    return precision | {"recall@10": hits_GK.sum(axis=1) / sizes_G}


# --- baselines


def _popular(pairs: pl.DataFrame) -> list[str]:
    """The queries that the most products of the training days were engaged with."""
    train = pairs.filter((pl.col("label") >= 1) & (pl.col("split").fill_null("train") == "train"))
    asked = train.select(pl.col("query").map_elements(normalize, pl.String), "product_id").unique()
    counts = asked["query"].value_counts(name="n")
    return counts.sort(["n", "query"], descending=[True, False])["query"].head(DEPTH).to_list()


def _lexical(queries: Sequence[str], titles: Sequence[str]) -> list[list[str]]:
    """The head's queries by the words that they share with each title, the rare words first."""
    bm25 = BM25(pa.table({"product_id": queries, "title": queries}))
    return [_distinct(queries[row] for row in rows_K if row >= 0) for rows_K in bm25.top(titles, DEPTH)]


def _distinct(queries: Any) -> list[str]:
    return list(dict.fromkeys(map(normalize, queries)))
