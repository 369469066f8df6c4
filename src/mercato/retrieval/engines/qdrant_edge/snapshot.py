"""The primitives of hybrid search over one Qdrant Edge shard.

How the nearest products are searched is decided per query by how many the filters leave (`_approach`), because a
filtered graph search can silently find nothing.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from typing import Any
from uuid import UUID

import qdrant_edge as qdrant

from mercato.retrieval.engines.qdrant_edge.payload import condition
from mercato.retrieval.engines.qdrant_edge.shard import Points, bm25_query
from mercato.retrieval.expression import Filters, Vector
from mercato.retrieval.hybrid import Key, Scored

PointId = int | str | UUID

# Measured at 200k × 128-d on 2 cores: an exact search costs .1 µs for each product that the filters leave; the graph
# costs .5 ms, up to 2.5 ms under a filter at twice the ef_search; the graph with ACORN 5 to 10 ms, whatever the filter.
EXACT_BELOW = 30_000
NARROW = 0.1  # filters that leave less than this part of the index make the plain graph search unreliable …
EXACT_BELOW_WHEN_NARROW = 100_000  # … and there exact search is the cheaper of the two that remain up to here
COUNT_EXACTLY_BELOW = 20_000


class EdgeSnapshot:
    """See `mercato.retrieval.hybrid.Snapshot`. Writes to the shard are seen as they come."""

    def __init__(self, shard: qdrant.EdgeShard, points: Points) -> None:
        self.shard, self._points = shard, points

    @property
    def size(self) -> int:
        """The estimated number of products."""
        return self._estimate(None)

    def nearest(self, vector: Vector, filters: Filters, limit: int, ef_search: int) -> list[Scored]:
        """Return the nearest products: exactly, by the graph, or by the graph with ACORN."""
        query, where = qdrant.Query.Nearest(vector.tolist()), condition(filters)
        found = self._run(query, limit, where, self._approach(where, max(ef_search, limit)))
        if len(found) < limit:  # the graph may have lost its way; what is left is known only by looking at all of it
            found = self._run(query, limit, where, qdrant.SearchParams(exact=True))
        return found

    def matching(
        self, words: Sequence[str], filters: Filters, limit: int, among: Set[Key] | None = None
    ) -> list[Scored]:
        """Return the best products by BM25."""
        where = condition(filters)
        return self._run(self._words(words), limit, where if among is None else _among(among, where))

    def newest(self, filters: Filters, limit: int) -> list[Scored]:
        """Return the newest products; the score is `created_at` in whole seconds."""
        return self._run(qdrant.OrderBy("created_at", qdrant.Direction.Desc), limit, condition(filters))

    def cosines(self, vector: Vector, keys: Set[Key]) -> dict[Key, float]:
        """Return the cosine of each of these points."""
        return self._scores(qdrant.Query.Nearest(vector.tolist()), keys)

    def bm25s(self, words: Sequence[str], keys: Set[Key]) -> dict[Key, float]:
        """Return the BM25 score of those of these points that hold any of the words."""
        return self._scores(self._words(words), keys)

    def holders(self, word: str, limit: int) -> set[Key]:
        """Return up to `limit` points that hold the word."""
        return {point.id for point in self.shard.query(qdrant.QueryRequest(limit=limit, query=self._words([word])))}

    def count(self, filters: Filters) -> int:
        """Count the points within `filters`: exactly up to about 20,000, an estimate beyond."""
        where = condition(filters)
        estimate = self._estimate(where)
        if estimate > COUNT_EXACTLY_BELOW:
            return estimate
        return int(self.shard.count(qdrant.CountRequest(exact=True, filter=where)))

    def _words(self, words: Sequence[str]) -> qdrant.Query:
        return bm25_query(self._points.numbers(words))

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

    def _scores(self, query: qdrant.Query, keys: Set[Key]) -> dict[Key, float]:
        exact = qdrant.SearchParams(exact=True)
        request = qdrant.QueryRequest(limit=len(keys), query=query, filter=_among(keys), params=exact)
        return {point.id: point.score for point in self.shard.query(request)}

    def _run(
        self,
        query: qdrant.Query | qdrant.OrderBy,
        limit: int,
        where: qdrant.Filter | None,
        params: qdrant.SearchParams | None = None,
    ) -> list[Scored]:
        request = qdrant.QueryRequest(
            limit=limit, query=query, filter=where, params=params, with_payload=["product_id"]
        )
        points = self.shard.query(request)
        scores = (point.score if point.order_value is None else point.order_value for point in points)
        return [
            Scored(point.id, (point.payload or {})["product_id"], score)
            for point, score in zip(points, scores, strict=True)
        ]


def _among(points: Set[Any], where: qdrant.Filter | None = None) -> qdrant.Filter:
    return qdrant.Filter(must=[qdrant.HasIdCondition(set(points)), *([] if where is None else [where])])
