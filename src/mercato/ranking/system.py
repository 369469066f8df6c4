"""Retrieval and ranking as systems that `mercato.evaluation` measures: what a search finds, in several orders."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.ranking.features import Asked
from mercato.retrieval.expression import Expression, Filters
from mercato.retrieval.protocol import Hits, Index
from mercato.runs.encoder import Encoder

Orders = Callable[[Asked, Hits], Mapping[str, NDArray[np.floating]]]  # the scores of hits by each order, (H,)

T = TypeVar("T")

CANDIDATES = 300  # that the vector and the words bring each
EF_SEARCH = 256


@dataclass(frozen=True, eq=False)
class RankedSearch:
    """Queries and products by their rows in the tables of an evaluation; what the index does not hold comes last.

    What one order looks up and scores, its siblings (`by`) read too.
    """

    order: str
    orders: Orders
    encoder: Encoder
    index: Index
    queries: pl.DataFrame  # columns `query` and `country`
    product_ids: list[str]
    as_of: datetime  # listings have their age then
    _scored: dict[tuple[int, bytes], dict[str, FloatArray]] = field(default_factory=dict)
    _found: dict[tuple[int, int, bool], dict[str, IntArray]] = field(default_factory=dict)

    def score(self, queries_P: IntArray, products_P: IntArray) -> FloatArray:
        """The score of each pair: (P,)."""
        scores_P = np.full(len(queries_P), -np.inf)
        order_P = np.argsort(queries_P, kind="stable")
        for pairs in np.split(order_P, np.flatnonzero(np.diff(queries_P[order_P])) + 1):
            if len(pairs):
                scores_P[pairs] = self.grid(queries_P[pairs[:1]], products_P[pairs])[0]
        return scores_P

    def grid(self, queries_B: IntArray, products_J: IntArray) -> FloatArray:
        """The score of every query with every product: (B, J)."""
        distinct, place_J = np.unique(products_J, return_inverse=True)
        return np.stack([self._scores(query, distinct)[place_J] for query in queries_B.tolist()])

    def top(self, queries_Q: IntArray, k: int, among_M: IntArray) -> IntArray:
        """The k best of what a search finds: (Q, k), -1 where it finds no more."""
        found_QK = np.full((len(queries_Q), k), -1, np.int64)
        row_of = {self.product_ids[row]: row for row in among_M.tolist()}
        at_home = len(row_of) < len(self.product_ids)  # of the searcher's country
        for found_K, query in zip(found_QK, queries_Q.tolist(), strict=True):
            rows = self._rows(query, max(k, CANDIDATES), at_home, row_of)[:k]
            found_K[: len(rows)] = rows
        return found_QK

    def by(self, order: str) -> RankedSearch:
        """The same search in another order."""
        return replace(self, order=order)

    def _scores(self, query: int, products_n: IntArray) -> FloatArray:
        key = (query, products_n.tobytes())
        if key not in self._scored:
            ids = [self.product_ids[product] for product in products_n]
            hits = self.index.lookup(self._expression(query), ids)
            place_of = {product_id: place for place, product_id in enumerate(ids)}
            places_H = [place_of[product_id] for product_id in hits.product_ids]
            self._scored[key] = {}
            for order, scores_H in self.orders(self._asked(query), hits).items():
                self._scored[key][order] = scores_n = np.full(len(ids), -np.inf)
                scores_n[places_H] = scores_H
        return self._of(self._scored[key])

    def _rows(self, query: int, candidates: int, at_home: bool, row_of: Mapping[str, int]) -> IntArray:
        """The rows of all that a search finds, best first."""
        key = (query, candidates, at_home)
        if key not in self._found:
            expression = self._expression(query)
            if at_home:
                expression = expression.model_copy(update={"filters": Filters(country=self.queries["country"][query])})
            hits = self.index.search(expression, candidates)
            rows_H = np.array([row_of.get(product_id, -1) for product_id in hits.product_ids], np.int64)
            self._found[key] = {}
            for order, scores_H in self.orders(self._asked(query), hits).items():
                ranked_H = rows_H[np.lexsort([-scores_H, ~hits.exact_H])]  # exact hits first, as a page has them
                self._found[key][order] = ranked_H[ranked_H >= 0]
        return self._of(self._found[key])

    def _of(self, by_order: Mapping[str, T]) -> T:
        """By this order; where a stage gave no scores, by the last one that did, as a page is."""
        return by_order[self.order] if self.order in by_order else [*by_order.values()][-1]

    def _asked(self, query: int) -> Asked:
        return Asked(self.queries["query"][query], self.as_of)

    def _expression(self, query: int) -> Expression:
        text, country = self.queries["query"][query], self.queries["country"][query]
        return Expression(vector=self.encoder.encode_queries([text], country)[0], text=text, ef_search=EF_SEARCH)
