"""The evaluation set of one split, as row numbers: judged, impressed and engaged pairs, and displayed lists."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal, Self

import numpy as np
import polars as pl

from mercato.data.market import Market
from mercato.data.normalize import normalize
from mercato.errors import MercatoError
from mercato.evaluation.kinds import leaf_categories
from mercato.evaluation.looks import visual_pairs
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray
from mercato.evaluation.propensities import at, estimate_propensities
from mercato.evaluation.units import Unit, bootstrap_units

Split = Literal["test", "validation"]

KEY = ["query", "country", "product_id"]
COUNTED = ["impressions", "depth"]  # in the split; absent from old and imported pairs
EARLIER = {"test": ("train", "validation"), "validation": ("train",)}


@dataclass(frozen=True, kw_only=True)
class LabelledPairs:
    """Graded (query, product) pairs, arrays of (P,). Queries and products are rows of the evaluation's tables."""

    queries: IntArray
    products: IntArray
    grades: FloatArray
    split: str
    unknown: int  # pairs left out, as their product is not in the catalogue
    impressions: FloatArray  # how often each was shown in the split, NaN where unknown
    depth: FloatArray  # the most steps of the chain that a search is known to have taken on it

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
        arrays = {name: getattr(self, name)[keep_P] for name in ("queries", "products", "grades", *COUNTED)}
        return replace(self, **arrays)


@dataclass(frozen=True, kw_only=True)
class DisplayedLists:
    """Whole displayed lists whose outcomes are known: arrays of (P,) over their products."""

    shown: LabelledPairs  # the grade is the depth: how many steps of the chain the search took on the product
    lists_P: IntArray  # the list of each, 0 … L - 1
    positions_P: IntArray  # at which each was shown, from 1
    propensities_P: FloatArray  # of the position at which it was shown, from the lists of earlier splits
    propensities_K: FloatArray  # of each position, the first being 1

    @property
    def list_queries(self) -> IntArray:
        """The query of each list, as a position in `shown.query_rows`: (L,)."""
        first_L = np.unique(self.lists_P, return_index=True)[1]
        return self.shown.groups[first_L]


@dataclass(frozen=True, kw_only=True)
class EvaluationSet:
    """The distinct queries of all parts (columns `query`, `country`), and each part that the tables allow."""

    queries: pl.DataFrame
    product_ids: list[str]
    relevance: LabelledPairs | None  # graded by raters
    relevance_unseen: LabelledPairs | None  # of these, queries never engaged with before; None where all or none are
    engagement: LabelledPairs | None  # 1 engaged, 0 unengaged: an impression that nobody engaged with
    lists: DisplayedLists | None  # of the split, where earlier ones tell the propensity of a position
    engaged: LabelledPairs | None  # the engaged ones among them: the truth of KNN
    unseen: LabelledPairs | None  # of these, pairs that no earlier split holds; None where that is all
    cold: LabelledPairs | None  # engaged pairs of products that nobody engaged with before; None where all or none are
    visual: LabelledPairs | None  # engaged and relevant ones whose query names a look that only a photo can tell
    batch: LabelledPairs | None  # engaged pairs too, of the validation split where the market has no future one
    countries: list[str | None] | None  # of the products, where everybody engages within their own country
    kinds_N: IntArray  # the leaf category of each product, -1 for none
    units_Q: IntArray  # of each query, what a bootstrap draws whole
    unit: Unit  # what that is

    def pairs(self, part: str) -> LabelledPairs | None:
        """What a part is measured on, one of `mercato.evaluation.metrics.registry.SEARCH_PARTS`; None: nothing."""
        return {
            "relevance": self.relevance,
            "relevance_unseen": self.relevance_unseen,
            "engagement": self.engagement,
            "lists": self.lists.shown if self.lists else None,
            "batch": self.batch,
            "knn": self.engaged,
            "unseen": self.unseen,
            "cold": self.cold,
            "visual": self.visual,
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
    def read(
        cls, market: Market, split: Split = "test", pairs: pl.DataFrame | None = None, *, lists: bool = True
    ) -> Self:
        """Read the parts of a split.

        Args:
            market: its judgments are those of `split` (null counts as test), its pairs those of the future for `test`.
            split: `validation` is what training may stop on, `test` what a report may claim.
            pairs: used in place of the market's pairs table (`query`, `product_id`, `label`, and optionally `country`
                and `split`, where null counts as future).
            lists: read displayed lists too, which takes seconds where there are many; those of the market say nothing
                of `pairs` given in place of its own.

        Raises:
            MercatoError: a table has a column of a wrong type, a grade or label that is no number, or an empty query.
        """
        catalogue = market.frame("products", ["product_id", "country", "category"])
        product_ids = catalogue["product_id"].to_list()
        judgments = pairs_of = fresh = fallback = displays = propensities_K = None
        before: set[tuple[str, str | None]] = set()  # queries that somebody engaged with in an earlier split
        warm: set[str] = set()  # and products
        if market.has("judgments"):
            wanted = [*KEY, "grade", "split"]
            judgments = _of_split(_valid(market.frame("judgments", wanted), "judgments", "grade"), split, null="test")
        if pairs is not None or market.has("pairs"):
            table = _as_pairs(pairs) if pairs is not None else market.frame("pairs", [*KEY, "label", "split", *COUNTED])
            table = _valid(table, "pairs", "label")
            null = "future" if pairs is not None else "train"  # a table of pairs without splits is one to learn from
            pairs_of = _of_split(table, "future" if split == "test" else split, null)
            earlier = table.filter(pl.col("split").fill_null(null).is_in(EARLIER[split]))
            taught = earlier.filter(pl.col("grade") >= 1)
            before = {(normalize(query), country) for query, country in taught.select(KEY[:2]).unique().rows()}
            warm = set(taught["product_id"])
            fresh = pairs_of.join(earlier, on=KEY, how="anti", nulls_equal=True, maintain_order="left")
            if split == "test" and not (pairs_of["grade"] >= 1).any():
                fallback = _of_split(table, "validation", null)
        if lists and pairs is None and market.has("lists"):
            table = market.frame("lists", [*KEY, "list_id", "position", "placed_by", "depth", "split"])
            table = table.with_columns(pl.col("split").fill_null("train"))
            propensities_K = estimate_propensities(table.filter(pl.col("split").is_in(EARLIER[split])))
            if propensities_K is not None:
                displays = _closed(table.filter(pl.col("split") == _pairs_split(split)))

        frames = [frame for frame in (judgments, pairs_of, fallback, displays) if frame is not None]
        empty = pl.DataFrame(schema={"query": pl.String, "country": pl.String})
        queries = pl.concat([empty, *(f.select("query", "country") for f in frames)]).unique().sort("query", "country")
        products = pl.DataFrame({"product_id": product_ids}, schema={"product_id": pl.String}).with_row_index("product")
        products = products.unique("product_id", keep="first")
        coded = [
            None if frame is None else _coded(_known(frame, queries, products), name, len(frame))
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
        displayed = None
        if displays is not None and propensities_K is not None:
            shown = _known(displays, queries, products)
            displayed = _displayed(shown, propensities_K, _pairs_split(split), len(displays))
        batch = engaged or (_nonempty(other.only(other.grades >= 1)) if other else None)
        countries = catalogue["country"].to_list()
        local = engaged is not None and within_country(
            catalogue["country"], queries["country"].gather(engaged.queries), engaged.products
        )
        return cls(
            queries=queries,
            product_ids=product_ids,
            relevance=_nonempty(relevance),
            relevance_unseen=_unseen(_nonempty(relevance), queries, before),
            engagement=_nonempty(engagement),
            lists=displayed,
            engaged=engaged,
            unseen=unseen,
            cold=_cold(engaged, product_ids, warm),
            visual=_visual(market, queries, engaged, relevance, split) if batch else None,
            batch=batch,
            countries=countries if local else None,
            kinds_N=leaf_categories(catalogue["category"].to_list()),
            units_Q=bootstrap_units(queries, market.frame("intents") if market.has("intents") else None),
            unit="intent" if market.has("intents") else "query",
        )


def within_country(countries: pl.Series, searched: pl.Series, products: IntArray) -> bool:
    """Whether engaged pairs stay within one of several countries, but for a stray one in a hundred.

    Args:
        countries: of the catalogue's products; unknown ones say nothing.
        searched: of each pair's query.
        products: the row of each pair's product.
    """
    known = pl.DataFrame({"searched": searched, "listed": countries.gather(products)}).filter(
        (pl.col("searched") != "") & (pl.col("listed") != "")
    )
    several = countries.filter(countries != "").n_unique() > 1
    return several and len(known) > 0 and (known["searched"] == known["listed"]).sum() >= 0.99 * len(known)


def _unseen(
    judged: LabelledPairs | None, queries: pl.DataFrame, known: set[tuple[str, str | None]]
) -> LabelledPairs | None:
    """The judged pairs of queries, in normal form, that are not known; None where that is all or none of them."""
    if judged is None:
        return None
    unseen_Q = np.array([(normalize(query), country) not in known for query, country in queries.rows()])
    return _part_of(judged, unseen_Q[judged.queries])


def _cold(engaged: LabelledPairs | None, product_ids: list[str], warm: set[str]) -> LabelledPairs | None:
    """The engaged pairs of products that are not warm; None where that is all or none of them."""
    if engaged is None:
        return None
    return _part_of(engaged, np.array([product_ids[product] not in warm for product in engaged.products]))


def _visual(
    market: Market, queries: pl.DataFrame, engaged: LabelledPairs | None, judged: LabelledPairs | None, split: str
) -> LabelledPairs | None:
    """The engaged pairs, and the judged ones that are relevant, of which `visual_pairs` holds; None where none is."""
    relevant = judged.only(judged.grades >= market.config.relevant_grade) if judged else None
    found = [np.stack([each.queries, each.products]) for each in (engaged, relevant) if each]
    if not found:
        return None
    queries_P, products_P = np.unique(np.concatenate(found, axis=1), axis=1)
    texts = queries["query"].to_list()
    visual_P = np.array(visual_pairs(market, [texts[query] for query in queries_P], products_P.tolist()), dtype=bool)
    nothing_P = np.full(len(visual_P), np.nan)
    pairs = LabelledPairs(
        queries=queries_P,
        products=products_P,
        grades=np.ones(len(visual_P)),
        split=split,
        unknown=0,
        impressions=nothing_P,
        depth=nothing_P,
    )
    return _nonempty(pairs.only(visual_P))


def _part_of(pairs: LabelledPairs, keep_P: BoolArray) -> LabelledPairs | None:
    """Some of the pairs; None where that is all or none of them: nothing is then told apart."""
    return pairs.only(keep_P) if keep_P.any() and not keep_P.all() else None


def _pairs_split(split: Split) -> str:
    return "future" if split == "test" else split


def _as_pairs(pairs: pl.DataFrame) -> pl.DataFrame:
    missing = [name for name in ("query", "product_id", "label") if name not in pairs.columns]
    if missing:
        raise MercatoError(f"the pairs to evaluate on lack the column {missing[0]}")
    optional = {"country": pl.String, "split": pl.String, "impressions": pl.Int64, "depth": pl.Int64}
    absent = [pl.lit(None, kind).alias(name) for name, kind in optional.items() if name not in pairs.columns]
    return pairs.with_columns(absent).select(*KEY, "label", "split", *COUNTED)


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
    counted = [pl.col(name).max() for name in COUNTED if name in frame.columns]
    return rows.group_by(KEY).agg(pl.col("grade").mean(), *counted).sort(KEY)


def _closed(lists: pl.DataFrame) -> pl.DataFrame:
    """The lists in which every outcome is known: none of their windows was open at the split's end. Without what a rule
    pinned: no order brought it there, and its badge is clicked too.
    """
    whole = (pl.col("depth").is_not_null() & pl.col("position").is_not_null()).all().over("list_id")
    kept = lists.filter(whole & pl.col("placed_by").ne_missing("pin"))
    return kept.rename({"depth": "grade"}).sort("list_id", "position", "product_id")


def _known(frame: pl.DataFrame, queries: pl.DataFrame, products: pl.DataFrame) -> pl.DataFrame:
    """The rows whose product is in the catalogue, with the numbers of query (`row`) and `product`."""
    numbered = queries.with_row_index("row")
    rows = frame.join(numbered, on=["query", "country"], how="left", nulls_equal=True, maintain_order="left")
    return rows.join(products, on="product_id", how="inner", maintain_order="left")


def _coded(known: pl.DataFrame, split: str, of: int) -> LabelledPairs:
    nothing = np.full(len(known), np.nan)
    counted = {
        name: known[name].cast(pl.Float64).fill_null(np.nan).to_numpy() if name in known.columns else nothing
        for name in COUNTED
    }
    return LabelledPairs(
        queries=known["row"].cast(pl.Int64).to_numpy(),
        products=known["product"].cast(pl.Int64).to_numpy(),
        grades=known["grade"].cast(pl.Float64).to_numpy(),
        split=split,
        unknown=of - len(known),
        **counted,
    )


def _displayed(known: pl.DataFrame, propensities_K: FloatArray, split: str, of: int) -> DisplayedLists | None:
    if known.is_empty():
        return None
    return DisplayedLists(
        shown=_coded(known, split, of),
        lists_P=known["list_id"].rle_id().cast(pl.Int64).to_numpy(),
        positions_P=known["position"].to_numpy(),
        propensities_P=at(propensities_K, known["position"].to_numpy()),
        propensities_K=propensities_K,
    )


def _nonempty(pairs: LabelledPairs | None) -> LabelledPairs | None:
    return pairs if pairs is not None and len(pairs.queries) else None
