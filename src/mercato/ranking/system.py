"""Retrieval and ranking as a system that `mercato.evaluation` measures: what a search finds, in the ranker's order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime

import numpy as np
import polars as pl
from numpy.typing import NDArray

from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.ranking.features import Asked
from mercato.retrieval.expression import Expression, Filters
from mercato.retrieval.protocol import Hits, Index
from mercato.runs.encoder import Encoder

Order = Callable[[Asked, Hits], NDArray[np.floating]]  # the score of each hit, (H,)

CANDIDATES = 300  # that the vector and the words bring each
EF_SEARCH = 256


@dataclass(frozen=True, eq=False)
class RankedSearch:
    """Queries and products by their rows in the tables of an evaluation; what the index does not hold comes last."""

    order: Order
    encoder: Encoder
    index: Index
    queries: pl.DataFrame  # columns `query` and `country`
    product_ids: list[str]
    as_of: datetime  # listings have their age then

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
        scores_BJ = np.full((len(queries_B), len(products_J)), -np.inf)
        distinct, place_J = np.unique(products_J, return_inverse=True)
        ids = [self.product_ids[product] for product in distinct]
        for scores_J, query in zip(scores_BJ, queries_B.tolist(), strict=True):
            hits = self.index.lookup(self._expression(query), ids)
            scored = dict(zip(hits.product_ids, self.order(self._asked(query), hits).tolist(), strict=True))
            scores_J[:] = np.array([scored.get(product_id, -np.inf) for product_id in ids])[place_J]
        return scores_BJ

    def top(self, queries_Q: IntArray, k: int, among_M: IntArray) -> IntArray:
        """The k best of what a search finds: (Q, k), -1 where it finds no more."""
        found_QK = np.full((len(queries_Q), k), -1, np.int64)
        row_of = {self.product_ids[row]: row for row in among_M.tolist()}
        for found_K, query in zip(found_QK, queries_Q.tolist(), strict=True):
            expression = self._expression(query)
            if len(row_of) < len(self.product_ids):  # of the searcher's country
                expression = expression.model_copy(update={"filters": Filters(country=self.queries["country"][query])})
            hits = self.index.search(expression, max(k, CANDIDATES))
            best = np.argsort(-self.order(self._asked(query), hits), kind="stable")
            rows = [row for product_id in hits.take(best).product_ids if (row := row_of.get(product_id)) is not None][
                :k
            ]
            found_K[: len(rows)] = rows
        return found_QK

    def by(self, order: Order) -> RankedSearch:
        """The same search in another order."""
        return replace(self, order=order)

    def _asked(self, query: int) -> Asked:
        return Asked(self.queries["query"][query], self.as_of)

    def _expression(self, query: int) -> Expression:
        text, country = self.queries["query"][query], self.queries["country"][query]
        return Expression(vector=self.encoder.encode_queries([text], country)[0], text=text, ef_search=EF_SEARCH)
