"""The evaluation set: judged, impressed and engaged (query, product) pairs of one split, as row numbers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import polars as pl

from mercato.data.market import Market
from mercato.data.normalize import normalize
from mercato.errors import MercatoError
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray

Split = Literal["test", "validation"]

KEY = ["query", "country", "product_id"]
EARLIER = {"test": ("train", "validation"), "validation": ("train",)}


@dataclass(frozen=True)
class LabelledPairs:
    """Graded (query, product) pairs, arrays of (P,). Queries and products are rows of the evaluation's tables."""

    queries: IntArray
    products: IntArray
    grades: FloatArray
    split: str
    unknown: int  # pairs left out, as their product is not in the catalogue

    @property
    def query_rows(self) -> IntArray:
        """The rows of the distinct queries, ascending: (Q,)."""
        return np.unique(self.queries)

    @property
    def groups(self) -> IntArray:
        """The query of each pair as a position in `query_rows`: (P,)."""
        return np.searchsorted(self.query_rows, self.queries)

    def only(self, keep_P: BoolArray) -> Self:
        """Keep some of the pairs."""
        return type(self)(self.queries[keep_P], self.products[keep_P], self.grades[keep_P], self.split, self.unknown)


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """The distinct queries of all parts (columns `query`, `country`), and each part that the tables allow."""

    queries: pl.DataFrame
    product_ids: list[str]
    relevance: LabelledPairs | None  # graded by raters
    relevance_unseen: LabelledPairs | None  # of these, queries never engaged with before; None where all or none are
    engagement: LabelledPairs | None  # 1 engaged, 0 unengaged: an impression that nobody engaged with
    engaged: LabelledPairs | None  # the engaged ones among them: the truth of KNN
    unseen: LabelledPairs | None  # of these, pairs that no earlier split holds; None where that is all
    batch: LabelledPairs | None  # engaged pairs too, of the validation split where the market has no future one
    countries: list[str | None] | None  # of the products, where everybody engages within their own country

    def pairs(self, part: str) -> LabelledPairs | None:
        """What a part is measured on, one of `mercato.evaluation.metrics.registry.SEARCH_PARTS`; None: nothing."""
        return {
            "relevance": self.relevance,
            "relevance_unseen": self.relevance_unseen,
            "engagement": self.engagement,
            "batch": self.batch,
            "knn": self.engaged,
            "unseen": self.unseen,
        }[part]

    @property
    def rows(self) -> IntArray:
        """The products to rank: all of them, or the judged ones where there are judgments only. Ascending: (M,)."""
        if self.relevance is not None and self.batch is None:
            return np.unique(self.relevance.products)
        return np.arange(len(self.product_ids))

    def areas(self, queries_Q: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
        """Where each query is searched: positions in `queries_Q`, and the rows of the products they may find.

        In a market of several countries in which nobody engaged with a product of another, a search is within the
        searcher's country, for every system: to know the country is a filter's work, and no merit of a ranking. Where
        there are judgments only, it is among the judged products: no other is worth encoding.
        """
        if self.countries is None:
            yield np.arange(len(queries_Q)), self.rows
            return
        searched_Q = np.array(self.queries["country"].to_list(), dtype=object)[queries_Q]
        country_N = np.array(self.countries, dtype=object)
        for country in sorted(set(searched_Q.tolist()), key=str):
            yield np.flatnonzero(searched_Q == country), np.flatnonzero((country_N == country) | (country is None))

    @classmethod
    def read(cls, market: Market, split: Split = "test", pairs: pl.DataFrame | None = None) -> Self:
        """Read the parts of a split.

        Args:
            market: its judgments are those of `split` (null counts as test), its pairs those of the future for `test`.
            split: `validation` is what training may stop on, `test` what a report may claim.
            pairs: used in place of the market's pairs table (`query`, `product_id`, `label`, and optionally `country`
                and `split`, where null counts as future).

        Raises:
            MercatoError: a table has a column of a wrong type, a grade or label that is no number, or an empty query.
        """
        catalogue = market.frame("products", ["product_id", "country"])
        product_ids = catalogue["product_id"].to_list()
        judgments = pairs_of = fresh = fallback = None
        known: set[tuple[str, str | None]] = set()  # queries that somebody engaged with in an earlier split
        if market.has("judgments"):
            wanted = [*KEY, "grade", "split"]
            judgments = _of_split(_valid(market.frame("judgments", wanted), "judgments", "grade"), split, null="test")
        if pairs is not None or market.has("pairs"):
            table = _as_pairs(pairs) if pairs is not None else market.frame("pairs", [*KEY, "label", "split"])
            table = _valid(table, "pairs", "label")
            null = "future" if pairs is not None else "train"  # a table of pairs without splits is one to learn from
            pairs_of = _of_split(table, "future" if split == "test" else split, null)
            earlier = table.filter(pl.col("split").fill_null(null).is_in(EARLIER[split]))
            known = {(normalize(q), c) for q, c in earlier.filter(pl.col("grade") >= 1).select(KEY[:2]).unique().rows()}
            fresh = pairs_of.join(earlier, on=KEY, how="anti", nulls_equal=True, maintain_order="left")
            if split == "test" and not (pairs_of["grade"] >= 1).any():
                fallback = _of_split(table, "validation", null)

        frames = [frame for frame in (judgments, pairs_of, fallback) if frame is not None]
        empty = pl.DataFrame(schema={"query": pl.String, "country": pl.String})
        queries = pl.concat([empty, *(f.select("query", "country") for f in frames)]).unique().sort("query", "country")
        products = pl.DataFrame({"product_id": product_ids}, schema={"product_id": pl.String}).with_row_index("product")
        coded = [
            None if frame is None else _coded(frame, queries, products.unique("product_id", keep="first"), name)
            for frame, name in (
                (judgments, split),
                (pairs_of, _pairs_split(split)),
                (fresh, _pairs_split(split)),
                (fallback, "validation"),
            )
        ]
        relevance, engagement, new, other = coded
        engaged = _nonempty(engagement.only(engagement.grades >= 1)) if engagement else None
        unseen = _nonempty(new.only(new.grades >= 1)) if new else None
        if engaged and unseen and len(unseen.queries) == len(engaged.queries):
            unseen = None
        batch = engaged or (_nonempty(other.only(other.grades >= 1)) if other else None)
        countries = catalogue["country"].to_list()
        local = engaged is not None and len(set(countries)) > 1 and _within(engaged, queries, countries)
        return cls(
            queries=queries,
            product_ids=product_ids,
            relevance=_nonempty(relevance),
            relevance_unseen=_unseen(_nonempty(relevance), queries, known),
            engagement=_nonempty(engagement),
            engaged=engaged,
            unseen=unseen,
            batch=batch,
            countries=countries if local else None,
        )


def _within(engaged: LabelledPairs, queries: pl.DataFrame, countries: list[str | None]) -> bool:
    """Whether engaged pairs stay within a country, but for a stray one in a hundred; unknown countries say nothing."""
    searched = queries["country"].to_list()
    both = [(searched[q], countries[p]) for q, p in zip(engaged.queries, engaged.products, strict=True)]
    known = [(here, there) for here, there in both if here and there]
    return bool(known) and sum(here == there for here, there in known) >= 0.99 * len(known)


def _unseen(
    judged: LabelledPairs | None, queries: pl.DataFrame, known: set[tuple[str, str | None]]
) -> LabelledPairs | None:
    """The judged pairs of queries, in normal form, that are not known; None where that is all or none of them."""
    if judged is None:
        return None
    unseen_Q = np.array([(normalize(query), country) not in known for query, country in queries.rows()])
    unseen_P = unseen_Q[judged.queries]
    return judged.only(unseen_P) if unseen_P.any() and not unseen_P.all() else None


def _pairs_split(split: Split) -> str:
    return "future" if split == "test" else split


def _as_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    missing = [name for name in ("query", "product_id", "label") if name not in pairs.columns]
    if missing:
        raise MercatoError(f"the pairs to evaluate on lack the column {missing[0]}")
    absent = [pl.lit(None, dtype=pl.String).alias(name) for name in ("country", "split") if name not in pairs.columns]
    return pairs.with_columns(absent).select(*KEY, "label", "split")


def _valid(frame: pl.DataFrame, table: str, column: str) -> pl.DataFrame:
    """Rename the graded column to `grade`; refuse nulls, NaN and infinities."""
    frame = frame.rename({column: "grade"}).with_columns(pl.col("grade").cast(pl.Float64))
    for name, bad in (
        ("query", pl.col("query").is_null()),
        ("product_id", pl.col("product_id").is_null()),
        (column, ~pl.col("grade").is_finite().fill_null(False)),
    ):
        row = frame.select(bad.arg_true()).to_series()
        if len(row):
            raise MercatoError(f"table {table}, row {row[0]}, column {name}: empty or not a number (`mercato check`)")
    return frame


def _of_split(frame: pl.DataFrame, split: str, null: str) -> pl.DataFrame:
    """The split's rows, one a (query, country, product): several raters' grades are averaged."""
    rows = frame.filter(pl.col("split").fill_null(null) == split)
    return rows.group_by(KEY).agg(pl.col("grade").mean()).sort(KEY)


def _coded(frame: pl.DataFrame, queries: pl.DataFrame, products: pl.DataFrame, split: str) -> LabelledPairs:
    numbered = queries.with_row_index("row")
    rows = frame.join(numbered, on=["query", "country"], how="left", nulls_equal=True, maintain_order="left")
    known = rows.join(products, on="product_id", how="inner", maintain_order="left")
    return LabelledPairs(
        known["row"].cast(pl.Int64).to_numpy(),
        known["product"].cast(pl.Int64).to_numpy(),
        known["grade"].to_numpy(),
        split,
        len(frame) - len(known),
    )


def _nonempty(pairs: LabelledPairs | None) -> LabelledPairs | None:
    return pairs if pairs is not None and len(pairs.queries) else None
