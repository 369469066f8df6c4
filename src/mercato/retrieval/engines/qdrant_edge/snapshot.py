"""The primitives of hybrid search over an open generation: its sealed shard and columns, and what is fresh behind them.

The nearest of all products are found by the engine's graph. Within filters a graph may silently find nothing, so there
the rows that they leave are looked at, all of them or those of the nearest cells. Words are the engine's.
What is fresh is looked at row by row. A sealed row that is gone since still has its point: the engine is asked for as
many more as are likely to be gone, and for nothing where looking at all that are left is no dearer. Where that was not
enough, as those gone lie together or the graph has lost its way, the nearest are found by cells, and by words the
engine is told who is gone. So the vectors and words of a bounded number of rows are read, however many there are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import qdrant_edge as qdrant
from numpy.typing import NDArray

from mercato.retrieval.engines.qdrant_edge.opened import Opened
from mercato.retrieval.engines.qdrant_edge.payload import condition, widened
from mercato.retrieval.engines.qdrant_edge.shard import bm25_query
from mercato.retrieval.expression import Filters, Vector
from mercato.retrieval.hybrid import NOTHING, Found, Rows, Scores
from mercato.retrieval.signals import SignalColumns

# Rows looked at within filters, for each of `ef_search` and each hit. At 200k × 128-d recall@10 is .998 under a filter
# that most queries are far from.
ROWS_PER_EF = 64
ROWS_PER_HIT = 8
_HOLE = 0.75  # of their share: where fewer of the nearest are left, those gone lie together
_SHORTLIST = 64  # rows, beside twice as many as are wanted, whose vectors themselves are compared
FEW = 500  # sealed rows at most whose words are read one by one
LOOKED_AT = 3  # rows that are looked at about as fast as the engine hands over a hit
_ANY = Filters()


class EdgeSnapshot:
    """See `mercato.retrieval.hybrid.Snapshot`. Writes that come meanwhile are seen as they are followed."""

    def __init__(self, opened: Opened) -> None:
        self._opened, self.shard, self.masks = opened, opened.shard, opened.masks
        self._known: dict[tuple[str, ...], tuple[NDArray[np.uint32], NDArray[np.float64]]] = {}

    @property
    def size(self) -> int:
        """The number of products."""
        return self._opened.living

    @property
    def uncompacted(self) -> int:
        """The rows that are fresh, dead ones too, and the sealed ones that are gone since."""
        return len(self._opened.fresh) + self._opened.gone

    def nearest(self, vector: Vector, filters: Filters, limit: int, ef_search: int) -> Found:
        """Return the nearest products: of all by the graph, within filters by looking at what they leave."""
        fresh = self._opened.fresh
        if filters == _ANY:
            sealed = self._by_graph(vector, limit, ef_search)
        else:
            sealed = self._by_cell(vector, filters, limit, ef_search)
        rows_F = self._fresh_within(filters)
        return self._joined(sealed, Found(rows_F, _compared(fresh.vectors(), rows_F, vector)), limit)

    def matching(self, words: Sequence[str], filters: Filters, limit: int, among_K: Rows | None = None) -> Found:
        """Return the best products by BM25: of few from their columns, of many by the engine."""
        if among_K is not None:
            rows_K = among_K[self._within(filters, among_K)]
            scores_K = self.bm25s(words, rows_K)
            return _best(Found(rows_K[scores_K > 0], scores_K[scores_K > 0]), limit)
        terms_T, idf_T = self._terms(words)
        left_N = self._left(filters)
        if filters != _ANY and np.count_nonzero(left_N) <= FEW:
            sealed = self._scored(terms_T, idf_T, np.flatnonzero(left_N), limit)
        else:
            sealed = self._by_words(terms_T, idf_T, filters, limit)
        rows_F = self._fresh_within(filters)
        scores_N = self._opened.fresh.bm25(terms_T, idf_T, int(rows_F[-1]) + 1 if len(rows_F) else 0)
        rows_F = rows_F[scores_N[rows_F] > 0]
        return self._joined(sealed, Found(rows_F, scores_N[rows_F]), limit)

    def newest(self, filters: Filters, limit: int) -> Found:
        """Return the newest products; the score is `created_at` in whole seconds."""
        opened = self._opened
        left_N = self._left(filters)
        newest_N, created_N = opened.columns.whole("newest"), opened.columns.whole("created")
        left, end, rows_L = int(np.count_nonzero(left_N)), limit, np.zeros(0, np.int64)
        while len(rows_L) < min(limit, left) and end < left:
            rows_L = newest_N[:end][left_N[newest_N[:end]]].astype(np.int64)
            end *= 8
        if len(rows_L) < min(limit, left):  # to sort all that are left is no dearer than to go further back
            rows_L = np.flatnonzero(left_N)
            rows_L = rows_L[np.argsort(-created_N[rows_L], kind="stable")]
        rows_L = rows_L[:limit]
        rows_F = self._fresh_within(filters)
        fresh = Found(rows_F, opened.fresh.created()[rows_F].astype(np.float64))
        return self._joined(Found(rows_L, created_N[rows_L].astype(np.float64)), fresh, limit)

    def alive(self, rows_K: Rows) -> NDArray[np.bool_]:
        """Return which of these rows are still there."""
        opened, sealed_K = self._opened, rows_K < self._opened.sealed
        alive_K = np.empty(len(rows_K), bool)
        alive_K[sealed_K] = opened.alive_N[rows_K[sealed_K]]
        alive_K[~sealed_K] = opened.fresh.alive()[rows_K[~sealed_K] - opened.sealed]
        return alive_K

    def cosines(self, vector: Vector, rows_K: Rows) -> Scores:
        """Return the cosine of each of these rows."""
        opened, sealed_K = self._opened, rows_K < self._opened.sealed
        found_K: Scores = np.empty(len(rows_K))
        found_K[sealed_K] = opened.columns.vectors(rows_K[sealed_K]) @ vector
        found_K[~sealed_K] = opened.fresh.vectors(rows_K[~sealed_K] - opened.sealed) @ vector
        return found_K

    def bm25s(self, words: Sequence[str], rows_K: Rows) -> Scores:
        """Return the BM25 score of each of these rows."""
        opened, (terms_T, idf_T) = self._opened, self._terms(words)
        sealed_K = rows_K < opened.sealed
        scores_K: Scores = np.zeros(len(rows_K))
        if sealed_K.any():
            scores_K[sealed_K] = opened.columns.weights(terms_T, rows_K[sealed_K]) @ idf_T
        if not sealed_K.all():
            scores_K[~sealed_K] = opened.fresh.weights(terms_T, rows_K[~sealed_K] - opened.sealed) @ idf_T
        return scores_K

    def frequencies(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Return how many products hold each word."""
        return self._opened.frequencies(self._opened.points.terms(words))

    def holders(self, word: str, limit: int) -> Rows:
        """Return up to `limit` rows that hold the word."""
        terms_T = self._opened.points.terms([word])
        sealed = self._by_words(terms_T, np.ones(len(terms_T)), _ANY, limit)
        fresh_L = self._opened.fresh.holders(terms_T.tolist()) + self._opened.sealed
        return np.concatenate([sealed.rows_F, fresh_L])[:limit]

    def product_ids(self, rows_K: Rows) -> list[str]:
        """Return the ids of these rows."""
        return self._opened.product_ids(rows_K)

    def signals(self, rows_K: Rows) -> SignalColumns:
        """Return what ranking reads of these rows."""
        return self._opened.signals(rows_K)

    def rows(self, product_ids: Sequence[str]) -> Rows:
        """Return the row of each of these products, -1 where it has none."""
        return self._opened.rows(product_ids)

    def count(self, filters: Filters) -> int:
        """Count the products within `filters`."""
        if filters == _ANY:
            return self.size
        return int(np.count_nonzero(self._left(filters))) + len(self._fresh_within(filters))

    def _left(self, filters: Filters) -> NDArray[np.bool_]:
        """Which sealed rows are alive and within the filters, (N,)."""
        alive_N = self._opened.alive_N
        return alive_N if filters == _ANY else alive_N & self.masks.of(filters).sealed()

    def _within(self, filters: Filters, rows_K: Rows) -> NDArray[np.bool_]:
        """Which of these rows are within the filters, dead ones too, (K,)."""
        if filters == _ANY:
            return np.ones(len(rows_K), bool)
        mask, sealed_K = self.masks.of(filters), rows_K < self._opened.sealed
        within_K = np.empty(len(rows_K), bool)
        within_K[sealed_K] = mask.holds(rows_K[sealed_K])
        within_K[~sealed_K] = mask.fresh()[rows_K[~sealed_K] - self._opened.sealed]
        return within_K

    def _terms(self, words: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.float64]]:
        """The numbers of these words, and their IDF, (T,)."""
        key = tuple(words)
        if key not in self._known:
            terms_T = self._opened.points.terms(words)
            self._known[key] = terms_T, self._opened.idf(terms_T)
        return self._known[key]

    def _fresh_within(self, filters: Filters) -> Rows:
        """The living fresh rows within the filters, ascending.

        To be asked for after the sealed ones: what is rewritten in between then has a row in both, never in neither.
        """
        alive_N = self._opened.fresh.alive()
        if filters == _ANY or not len(alive_N):
            return np.flatnonzero(alive_N)
        within_N = self.masks.of(filters).fresh()
        length = min(len(within_N), len(alive_N))  # one may be written meanwhile
        return np.flatnonzero(within_N[:length] & alive_N[:length])

    def _scored(self, terms_T: NDArray[np.uint32], idf_T: NDArray[np.float64], rows_K: Rows, limit: int) -> Found:
        """The best of some sealed rows by BM25."""
        scores_K = self._opened.columns.weights(terms_T, rows_K) @ idf_T
        return _best(Found(rows_K[scores_K > 0], scores_K[scores_K > 0]), limit)

    def _by_cell(self, vector: Vector, filters: Filters, limit: int, ef_search: int) -> Found:
        """The best sealed rows within the filters, of those in the nearest cells."""
        mask, cells = self.masks.of(filters), self.masks.cells
        left_N = self._left(filters)
        left = int(np.count_nonzero(left_N))
        wanted = max(ROWS_PER_EF * ef_search, ROWS_PER_HIT * limit)
        among = wanted * mask.count // max(1, left)
        near_P = mask.near(vector, among)
        places_P = near_P if left == mask.count else near_P[left_N[cells.rows_N[near_P]]]
        if len(places_P) < _HOLE * len(near_P) * left / max(1, mask.count):  # the rest are about equally far
            while len(places_P) < wanted + wanted // 2 and len(near_P) < mask.count:
                among *= 2
                near_P = mask.near(vector, among)
                places_P = near_P[left_N[cells.rows_N[near_P]]]
        if len(places_P) > (shortlist := 2 * limit + _SHORTLIST):
            places_P = places_P[np.argpartition(-cells.cosines(vector, places_P), shortlist)[:shortlist]]
        return self._near(vector, cells.rows_N[places_P].astype(np.int64), limit)

    def _by_graph(self, vector: Vector, limit: int, ef_search: int) -> Found:
        left_N = self._left(_ANY)
        wanted = self._wanted(left_N, limit, _ANY)
        if wanted is None:
            return self._near(vector, np.flatnonzero(left_N), limit)
        query = qdrant.Query.Nearest(vector.tolist())
        found = self._run(query, wanted, None, qdrant.SearchParams(hnsw_ef=max(ef_search, wanted)))
        lost_its_way = len(found.rows_F) < min(wanted, self._opened.count)
        living = None if lost_its_way else _living(found, left_N, limit, wanted)
        return self._by_cell(vector, _ANY, limit, ef_search) if living is None else living

    def _by_words(self, terms_T: NDArray[np.uint32], idf_T: NDArray[np.float64], filters: Filters, limit: int) -> Found:
        """The best sealed rows within the filters by BM25.

        A row that is gone outranks the living only where it holds the words: even of a department that is gone, four
        times as many are nearly always enough. Else the engine is told which rows not to find, at a third of what it
        costs to have that many handed over. What is replaced or deleted after that is left out, as in any search.
        """
        left_N = self._left(filters)
        wanted = self._wanted(left_N, limit, filters)
        if wanted is not None:
            query, asked = bm25_query(terms_T, idf_T), widened(filters)
            for many in (wanted, 4 * wanted):
                if (living := _living(self._run(query, many, condition(asked)), left_N, limit, many)) is not None:
                    return living
            lost = np.flatnonzero(self.masks.of(asked).sealed() & ~left_N)
            found = self._run(query, limit, condition(asked, without=lost.tolist()))
            left_F = left_N[found.rows_F]
            return Found(found.rows_F[left_F], found.scores_F[left_F])
        return self._scored(terms_T, idf_T, np.flatnonzero(left_N), limit)

    def _near(self, vector: Vector, rows_K: Rows, limit: int) -> Found:
        """The best of some sealed rows by their vectors."""
        return _best(Found(rows_K, _compared(self._opened.columns.whole("vectors"), rows_K, vector)), limit)

    def _wanted(self, left_N: NDArray[np.bool_], limit: int, filters: Filters) -> int | None:
        """How many the engine is asked for, which knows not who is gone: twice their share more than `limit`.

        None where so few are left that looking at them all is no dearer.
        """
        left = int(np.count_nonzero(left_N))
        gone = (self._opened.count if filters == _ANY else self.masks.of(filters).count) - left
        wanted = limit + min(gone, 2 * limit * gone // max(1, left))
        return None if gone and left <= LOOKED_AT * wanted else wanted

    def _joined(self, sealed: Found, fresh: Found, limit: int) -> Found:
        """The best `limit` of both; fresh rows are numbered behind the sealed ones."""
        if not len(fresh.rows_F):
            return sealed
        fresh = _best(fresh, limit)
        rows_F = np.concatenate([sealed.rows_F, fresh.rows_F + self._opened.sealed])
        scores_F = np.concatenate([sealed.scores_F, fresh.scores_F])
        order_F = np.argsort(-scores_F, kind="stable")[:limit]
        return Found(rows_F[order_F], scores_F[order_F])

    def _run(
        self,
        query: qdrant.Query,
        limit: int,
        where: qdrant.Filter | None,
        params: qdrant.SearchParams | None = None,
    ) -> Found:
        points = self.shard.query(qdrant.QueryRequest(limit=limit, query=query, filter=where, params=params))
        if not points:
            return NOTHING
        rows = [point.id for point in points]
        scores = [point.score for point in points]
        return Found(np.array(rows, np.int64), np.array(scores, np.float64))


def _living(found: Found, left_N: NDArray[np.bool_], limit: int, wanted: int) -> Found | None:
    """The best `limit` that are left of those found; None where more than the `wanted` ones must be asked for."""
    left_F = left_N[found.rows_F]
    if len(found.rows_F) >= wanted and np.count_nonzero(left_F) < limit:
        return None
    return Found(found.rows_F[left_F][:limit], found.scores_F[left_F][:limit])


def _best(found: Found, limit: int) -> Found:
    """The best `limit`, best first."""
    rows_F, scores_F = found
    if len(rows_F) > limit:
        best_f = np.argpartition(-scores_F, limit - 1)[:limit]
        rows_F, scores_F = rows_F[best_f], scores_F[best_f]
    order_F = np.argsort(-scores_F, kind="stable")
    return Found(rows_F[order_F], scores_F[order_F])


def _compared(vectors_Nd: NDArray[np.float32], rows_K: Rows, vector: Vector) -> Scores:
    """The cosine of each of these rows, (K,)."""
    most = 2 * len(rows_K) > len(vectors_Nd)  # then to copy them costs more than to compare all
    found_K = (vectors_Nd @ vector)[rows_K] if most else vectors_Nd[rows_K] @ vector
    return found_K.astype(np.float64)
