"""The primitives of hybrid search over an open generation: its sealed shard, and what is fresh behind it.

How the nearest sealed products are searched is decided per query by how many the filters leave (`_approach`), because a
filtered graph search can silently find nothing. What is fresh is looked at row by row. A sealed row that is gone still
has its point: the engine is asked for a few more than are wanted, and once more where that was not enough.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import qdrant_edge as qdrant
from numpy.typing import NDArray

from mercato.retrieval.engines.qdrant_edge.opened import Opened
from mercato.retrieval.engines.qdrant_edge.payload import condition
from mercato.retrieval.engines.qdrant_edge.shard import bm25_query
from mercato.retrieval.expression import Filters, Vector
from mercato.retrieval.hybrid import NOTHING, Found, Rows, Scores

# Measured at 200k × 128-d on 2 cores: an exact search costs .1 µs for each product that the filters leave; the graph
# costs .5 ms, up to 2.5 ms under a filter at twice the ef_search; the graph with ACORN 5 to 10 ms, whatever the filter.
EXACT_BELOW = 30_000
NARROW = 0.1  # filters that leave less than this part of the index make the plain graph search unreliable …
EXACT_BELOW_WHEN_NARROW = 100_000  # … and there exact search is the cheaper of the two that remain up to here
COUNT_EXACTLY_BELOW = 20_000


class EdgeSnapshot:
    """See `mercato.retrieval.hybrid.Snapshot`. Writes that come meanwhile are seen as they are followed."""

    def __init__(self, opened: Opened) -> None:
        self._opened, self.shard = opened, opened.shard

    @property
    def size(self) -> int:
        """The number of products."""
        return self._opened.living

    def nearest(self, vector: Vector, filters: Filters, limit: int, ef_search: int) -> Found:
        """Return the nearest products: exactly, by the graph, or by the graph with ACORN."""
        query, where = qdrant.Query.Nearest(vector.tolist()), condition(filters)

        def sealed(wanted: int) -> Found:
            found = self._run(query, wanted, where, self._approach(where, max(ef_search, wanted)))
            if len(found.rows_F) < wanted:  # the graph may have lost its way; what is left only looking at all tells
                found = self._run(query, wanted, where, qdrant.SearchParams(exact=True))
            return found

        within_N = self._opened.fresh.within(filters)
        rows_F = np.flatnonzero(within_N)
        cosines_N = self._opened.fresh.vectors(slice(len(within_N))) @ vector
        fresh = Found(rows_F, cosines_N[rows_F].astype(np.float64))
        return self._joined(self._living(sealed, limit), fresh, limit)

    def matching(self, words: Sequence[str], filters: Filters, limit: int, among_K: Rows | None = None) -> Found:
        """Return the best products by BM25."""
        opened = self._opened
        terms_T = opened.points.terms(words)
        idf_T = opened.idf(terms_T)
        where = condition(filters)
        if among_K is not None:
            where = _among(among_K[among_K < opened.sealed], where)
        query = bm25_query(terms_T, idf_T)
        within_N = opened.fresh.within(filters)
        scores_N = opened.fresh.bm25(terms_T, idf_T, len(within_N))
        rows_F = np.flatnonzero(within_N & (scores_N > 0))
        if among_K is not None:
            rows_F = np.intersect1d(rows_F, among_K - opened.sealed)
        fresh = Found(rows_F, scores_N[rows_F])
        return self._joined(self._living(lambda wanted: self._run(query, wanted, where), limit), fresh, limit)

    def newest(self, filters: Filters, limit: int) -> Found:
        """Return the newest products; the score is `created_at` in whole seconds."""
        order, where = qdrant.OrderBy("created_at", qdrant.Direction.Desc), condition(filters)
        rows_F = np.flatnonzero(self._opened.fresh.within(filters))
        fresh = Found(rows_F, self._opened.fresh.created()[rows_F].astype(np.float64))
        return self._joined(self._living(lambda wanted: self._run(order, wanted, where), limit), fresh, limit)

    def cosines(self, vector: Vector, rows_K: Rows) -> Scores:
        """Return the cosine of each of these rows."""
        opened = self._opened
        sealed_K = rows_K < opened.sealed
        found_K = np.full(len(rows_K), np.nan)
        found_K[sealed_K] = opened.columns.vectors(rows_K[sealed_K]) @ vector
        fresh_k = rows_K[~sealed_K] - opened.sealed
        found_K[~sealed_K] = np.where(opened.fresh.alive()[fresh_k], opened.fresh.vectors(fresh_k) @ vector, np.nan)
        found_K[np.isin(rows_K, opened.gone_G)] = np.nan
        return found_K

    def bm25s(self, words: Sequence[str], rows_K: Rows) -> Scores:
        """Return the BM25 score of each of these rows."""
        opened = self._opened
        terms_T = opened.points.terms(words)
        sealed_K = rows_K < opened.sealed
        weights_KT = np.zeros((len(rows_K), len(terms_T)))
        weights_KT[sealed_K] = opened.columns.weights(terms_T, rows_K[sealed_K])
        weights_KT[~sealed_K] = opened.fresh.weights(terms_T, rows_K[~sealed_K] - opened.sealed)
        scores_K: Scores = weights_KT @ opened.idf(terms_T)
        return scores_K

    def frequencies(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Return how many products hold each word."""
        return self._opened.frequencies(self._opened.points.terms(words))

    def holders(self, word: str, limit: int) -> Rows:
        """Return up to `limit` rows that hold the word."""
        terms_T = self._opened.points.terms([word])
        query = bm25_query(terms_T, np.ones(len(terms_T)))
        sealed = self._living(lambda wanted: self._run(query, wanted, None), limit)
        fresh_L = self._opened.fresh.holders(terms_T.tolist()) + self._opened.sealed
        return np.concatenate([sealed.rows_F, fresh_L])[:limit]

    def product_ids(self, rows_K: Rows) -> list[str]:
        """Return the ids of these rows."""
        return self._opened.product_ids(rows_K)

    def count(self, filters: Filters) -> int:
        """Count the products within `filters`: exactly up to about 20,000, an estimate beyond."""
        where = condition(filters)
        sealed = self._estimate(where)
        if sealed <= COUNT_EXACTLY_BELOW:
            sealed = int(self.shard.count(qdrant.CountRequest(exact=True, filter=where)))
        gone = int(self._opened.gone_fields.within(filters).sum())
        return max(0, sealed - gone) + int(self._opened.fresh.within(filters).sum())

    def _living(self, sealed: Callable[[int], Found], limit: int) -> Found:
        """The best `limit` sealed rows that are not gone, by a search that knows nothing of it."""
        gone_G = self._opened.gone_G
        if not len(gone_G):
            return sealed(limit)
        wanted = limit
        while True:
            found = sealed(wanted)
            living_F = gone_G[np.searchsorted(gone_G, found.rows_F).clip(max=len(gone_G) - 1)] != found.rows_F
            lost = int((~living_F).sum())
            if not lost or len(found.rows_F) < wanted or wanted - lost >= limit:
                return Found(found.rows_F[living_F][:limit], found.scores_F[living_F][:limit])
            wanted = min(limit + len(gone_G), 2 * wanted)

    def _joined(self, sealed: Found, fresh: Found, limit: int) -> Found:
        """The best `limit` of both; fresh rows are numbered behind the sealed ones."""
        if not len(fresh.rows_F):
            return sealed
        if len(fresh.rows_F) > limit:
            best_f = np.argpartition(-fresh.scores_F, limit - 1)[:limit]
            fresh = Found(fresh.rows_F[best_f], fresh.scores_F[best_f])
        rows_F = np.concatenate([sealed.rows_F, fresh.rows_F + self._opened.sealed])
        scores_F = np.concatenate([sealed.scores_F, fresh.scores_F])
        order_F = np.argsort(-scores_F, kind="stable")[:limit]
        return Found(rows_F[order_F], scores_F[order_F])

    def _estimate(self, where: qdrant.Filter | None) -> int:
        return int(self.shard.count(qdrant.CountRequest(exact=False, filter=where)))

    def _approach(self, where: qdrant.Filter | None, ef_search: int) -> qdrant.SearchParams:
        """Choose by the filters' estimated cardinality (about 15 µs): exact, the graph, or the graph with ACORN."""
        total = self._estimate(None)
        left = total if where is None else self._estimate(where)
        narrow = left < NARROW * total
        if left < (EXACT_BELOW_WHEN_NARROW if narrow else EXACT_BELOW):
            return qdrant.SearchParams(exact=True)
        if where is None:
            return qdrant.SearchParams(hnsw_ef=ef_search)
        acorn = qdrant.AcornSearchParams(enable=narrow, max_selectivity=NARROW)
        return qdrant.SearchParams(hnsw_ef=2 * ef_search, acorn=acorn)

    def _run(
        self,
        query: qdrant.Query | qdrant.OrderBy,
        limit: int,
        where: qdrant.Filter | None,
        params: qdrant.SearchParams | None = None,
    ) -> Found:
        points = self.shard.query(qdrant.QueryRequest(limit=limit, query=query, filter=where, params=params))
        if not points:
            return NOTHING
        rows = [point.id for point in points]
        scores = [point.score if point.order_value is None else point.order_value for point in points]
        return Found(np.array(rows, np.int64), np.array(scores, np.float64))


def _among(rows_K: NDArray[np.int64], where: qdrant.Filter | None = None) -> qdrant.Filter:
    return qdrant.Filter(must=[qdrant.HasIdCondition(set(rows_K.tolist())), *([] if where is None else [where])])
