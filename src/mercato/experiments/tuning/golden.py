"""The golden set (Que2Search §6.3): queries of the validation days, drawn by strata, with what is known to be right.

Of the log each third of the searches gives as many queries: the commonest (head), those in between (torso) and the
rarest (tail), so that a mean over them is about one over searches. Beside them stand queries that raters judged. Both
are of the validation split; nothing of the test split is read but its queries, which are left out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, Self

import numpy as np
import polars as pl

from mercato.data.market import Market
from mercato.data.normalize import normalize
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EvaluationSet, LabelledPairs
from mercato.evaluation.metrics.arrays import IntArray
from mercato.evaluation.units import Unit
from mercato.retrieval.expression import Filters
from mercato.search.request import SearchRequest

Stratum = Literal["head", "torso", "tail", "judged"]

LOGGED: tuple[Stratum, ...] = ("head", "torso", "tail")
LOG_QUERIES, JUDGED_QUERIES = 200, 100  # at most
FEWEST = 5  # intents or queries: a bootstrap of fewer takes chance for certainty


@dataclass(frozen=True)
class GoldenQuery:
    """One query, where it is searched, and what is known of it."""

    query: str
    country: str | None
    stratum: Stratum
    within: str | None  # the country whose products it may find; None: all
    grades: Mapping[str, float]  # of the products that raters judged for it; empty where they judged none
    engaged: frozenset[str]  # products that somebody engaged with in the validation days; empty unless of the log

    @property
    def request(self) -> SearchRequest:
        """Its first page."""
        return SearchRequest(query=self.query, country=self.country, filters=Filters(country=self.within))


@dataclass(frozen=True)
class GoldenSet:
    """Golden queries, in an order drawn by lot, and the products that each country's searches may find."""

    queries: Sequence[GoldenQuery]
    relevant_grade: float
    products: Mapping[str | None, Sequence[str]]  # by `GoldenQuery.within`
    units_Q: IntArray  # of each query, what a bootstrap draws whole
    unit: Unit

    @classmethod
    def read(cls, market: Market, seed: int = 0) -> Self:
        """Draw the golden set of a market.

        Raises:
            MercatoError: the validation split has neither judgments nor engagement, or too little of both.
        """
        dataset = EvaluationSet.read(market, "validation", lists=False)
        if dataset.relevance is None and dataset.engaged is None:
            raise MercatoError(
                f"{market.path}: nothing to tune by: no judgments of the split `validation`, and nobody engaged in it"
                " (`mercato mine` splits a log by time)"
            )
        draw = np.random.default_rng(seed)
        strata: dict[int, Stratum] = {}
        if dataset.relevance is not None:
            judged_Q = dataset.relevance.query_rows
            chosen = draw.choice(judged_Q, min(len(judged_Q), JUDGED_QUERIES), replace=False)
            for row in chosen.tolist():
                strata[row] = "judged"
        strata |= _of_the_log(market, dataset, draw)
        if len(units := np.unique(dataset.units_Q[sorted(strata)])) < FEWEST:
            raise MercatoError(
                f"{market.path}: too little to tune by: {len(units)} different intents or queries of the"
                f" split `validation`, and it takes {FEWEST} to tell a setting from another"
            )
        rows = draw.permutation(sorted(strata)).tolist()
        local = dataset.countries is not None
        grades, engaged = _by_query(dataset, dataset.relevance), _by_query(dataset, dataset.engaged)
        queries = []
        for row in rows:
            query, country = dataset.queries.row(row)
            known = frozenset(engaged.get(row, ())) if strata[row] != "judged" else frozenset()
            within = country if local else None
            queries.append(GoldenQuery(query, country, strata[row], within, grades.get(row, {}), known))
        products: dict[str | None, Sequence[str]] = {
            within: [
                product_id
                for product_id, country in zip(dataset.product_ids, dataset.countries or (), strict=True)
                if country == within
            ]
            if within
            else dataset.product_ids
            for within in {query.within for query in queries}
        }
        if not any(query.engaged or max(query.grades.values(), default=0) > 0 for query in queries):
            raise MercatoError(f"{market.path}: nothing to tune by: no golden query has anything good or engaged with")
        return cls(queries, market.config.relevant_grade, products, dataset.units_Q[rows], dataset.unit)

    def counts(self) -> dict[str, int]:
        """How many queries each stratum has."""
        strata = [query.stratum for query in self.queries]
        return {stratum: strata.count(stratum) for stratum in (*LOGGED, "judged")}


def _by_query(dataset: EvaluationSet, pairs: LabelledPairs | None) -> dict[int, dict[str, float]]:
    """The grade of each product of each query that has any, by the query's row."""
    found: dict[int, dict[str, float]] = {}
    if pairs is not None:
        columns = (column.tolist() for column in (pairs.queries, pairs.products, pairs.grades))
        for query, product, grade in zip(*columns, strict=True):
            found.setdefault(query, {})[dataset.product_ids[product]] = grade
    return found


def _of_the_log(market: Market, dataset: EvaluationSet, draw: np.random.Generator) -> dict[int, Stratum]:
    """Queries of the validation days by their rows, a third of them from each third of the searches."""
    if dataset.engagement is None:
        return {}
    tested: set[str] = set()
    if market.has("judgments"):
        judged = market.frame("judgments", ["query", "split"]).filter(pl.col("split").fill_null("test") == "test")
        tested = set(map(normalize, judged["query"].unique().to_list()))
    rows = dataset.queries.with_row_index("row").join(_searches(market), on=["query", "country"], nulls_equal=True)
    rows = rows.filter(pl.Series([normalize(query) not in tested for query in rows["query"]], dtype=pl.Boolean))
    rows = rows.sort(["searches", "query", "country"], descending=[True, False, False])
    third_R = _strata(rows["searches"])
    strata: dict[int, Stratum] = {}
    for number, stratum in enumerate(LOGGED):  # what the few queries of the head leave falls to the others
        its_R = rows["row"].to_numpy()[third_R == number]
        quota = (LOG_QUERIES - len(strata)) // (len(LOGGED) - number)
        chosen = draw.choice(its_R, min(len(its_R), quota), replace=False)
        strata |= dict.fromkeys(chosen.tolist(), stratum)
    return strata


def _strata(searches: pl.Series) -> IntArray:
    """The third of all searches that each query's begin in: 0, 1 or 2, of counts sorted from the commonest down."""
    before = (searches.cum_sum() - searches).to_numpy()
    thirds: IntArray = before * len(LOGGED) // max(1, int(searches.sum()))
    return thirds


def _searches(market: Market) -> pl.DataFrame:
    """How often each query was searched in the validation days: `query`, `country`, `searches`."""
    by = ["query", "country"]
    if market.has("lists"):
        lists = market.frame("lists", [*by, "list_id", "split"]).filter(pl.col("split") == "validation")
        return lists.group_by(by).agg(searches=pl.col("list_id").n_unique().cast(pl.Int64))
    pairs = market.frame("pairs", [*by, "impressions", "split"]).filter(pl.col("split") == "validation")
    return pairs.group_by(by).agg(searches=pl.col("impressions").fill_null(1).sum())
