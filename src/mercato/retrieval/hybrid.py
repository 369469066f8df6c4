"""Hybrid search on an engine's primitives: the union of two parts, both scores on each hit, the exact-match rule.

An engine says how it finds products by vector and by words (`Snapshot`); what is made of them is the same for all:
`HybridIndex.search`. An engine that can do several primitives in one go may override it; the contract in
`mercato.retrieval.testing` holds it to the same answers.

Shapes: F products found, K rows asked about, H hits.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager
from types import TracebackType
from typing import NamedTuple, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from mercato.data.words import words
from mercato.errors import MercatoError
from mercato.retrieval.expression import Expression, Filters, Vector
from mercato.retrieval.protocol import Capabilities, Hits
from mercato.retrieval.signals import SignalColumns

Rows = NDArray[np.int64]  # how an engine numbers products; a number means one product for as long as a snapshot is held
Scores = NDArray[np.float64]

# A word is rare where so many products at most have it, and no more than this part of the index (or one product).
_RARE, _RARE_PART = 10, 0.001
_EXACT_WORDS = 16  # a query of more words names nothing by number, and to look for rare ones costs .1 ms a word


class Found(NamedTuple):
    """A primitive's answer, best first. `scores_F`: the cosine, the BM25 score, or the time it was created."""

    rows_F: Rows
    scores_F: Scores


NOTHING = Found(np.zeros(0, np.int64), np.zeros(0, np.float64))


class Snapshot(Protocol):
    """One state of an index and the primitives over it.

    Where the engine cannot hold writes back, a product deleted between two primitives is missing from the second. One
    that is rewritten may have a row in each, the newer of the higher number; either may still be asked about.
    Words are those of `mercato.data.words`, each once. A vector is float32 (d,), of unit length and the index's d.
    """

    @property
    def size(self) -> int:
        """The number of products; an estimate will do."""
        ...

    def nearest(self, vector: Vector, filters: Filters, limit: int, ef_search: int) -> Found:
        """Return the `limit` products of the highest cosine within `filters`, approximately, and fewer only of fewer.

        `ef_search` is the least width of a graph search. Whether to search a graph or exactly is the engine's choice.
        """
        ...

    def matching(self, words: Sequence[str], filters: Filters, limit: int, among_K: Rows | None = None) -> Found:
        """Return the `limit` products of the highest BM25 score within `filters` that hold any of `words`."""
        ...

    def newest(self, filters: Filters, limit: int) -> Found:
        """Return the `limit` products created last within `filters`; one without a time is the oldest."""
        ...

    def alive(self, rows_K: Rows) -> NDArray[np.bool_]:
        """Return which of these rows, which another primitive may have found a while ago, are still there (K,)."""
        ...

    def cosines(self, vector: Vector, rows_K: Rows) -> Scores:
        """Return the cosine of each of these products (K,). It may be called after the snapshot was let go."""
        ...

    def bm25s(self, words: Sequence[str], rows_K: Rows) -> Scores:
        """Return the BM25 score of each of these products (K,), 0 for one that holds none of the words."""
        ...

    def frequencies(self, words: Sequence[str]) -> NDArray[np.int64]:
        """Return how many products hold each of these words."""
        ...

    def holders(self, word: str, limit: int) -> Rows:
        """Return the products that hold `word`, at most `limit` of them."""
        ...

    def product_ids(self, rows_K: Rows) -> list[str]:
        """Return the ids of these products. It may be called after the snapshot was let go."""
        ...

    def signals(self, rows_K: Rows) -> SignalColumns:
        """Return what ranking reads of these products. It may be called after the snapshot was let go."""
        ...

    def rows(self, product_ids: Sequence[str]) -> Rows:
        """Return the row of each of these products, -1 for one that is not there."""
        ...


class HybridIndex(ABC):
    """An index that searches by its engine's primitives: the base of every engine's `Index`."""

    @property
    @abstractmethod
    def capabilities(self) -> Capabilities:
        """What the engine can do."""

    @property
    @abstractmethod
    def dimension(self) -> int:
        """The length of its vectors."""

    @abstractmethod
    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Hold one state of the index for as long as the block lasts; a MercatoError says that the index is closed."""

    @abstractmethod
    def close(self) -> None:
        """Close the index; closing twice does nothing."""

    def search(self, expression: Expression, limit: int) -> Hits:
        """See `mercato.retrieval.protocol.Index.search`."""
        if limit < 1:
            raise MercatoError(f"limit: at least 1 hit must be asked for, not {limit}")
        with self.snapshot() as snapshot:
            return merged(snapshot, self._checked(expression), limit)

    def lookup(self, expression: Expression, product_ids: Sequence[str]) -> Hits:
        """See `mercato.retrieval.protocol.Index.lookup`."""
        with self.snapshot() as snapshot:
            rows_P = snapshot.rows(product_ids)
            return scored(snapshot, self._checked(expression), rows_P[rows_P >= 0])

    def _checked(self, expression: Expression) -> Expression:
        """The expression as the engine can answer it."""
        if expression.vector is not None and len(expression.vector) != self.dimension:
            raise MercatoError(
                f"vector: {len(expression.vector)} numbers, but the index's vectors have {self.dimension}: encode the "
                "query with the run that built the index"
            )
        if not self.capabilities.text and expression.text is not None:
            if expression.vector is None:
                raise MercatoError("text: this index's engine scores no text: search by vector")
            return expression.model_copy(update={"text": None})
        return expression

    def __enter__(self) -> Self:
        """Return the index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def merged(snapshot: Snapshot, expression: Expression, limit: int) -> Hits:
    """Return the hits of `expression` in its order: what either part found, scored by both, and all exact hits."""
    vector, filters = expression.vector, expression.filters
    if vector is None and expression.text is None:
        return _browsed(snapshot, snapshot.newest(filters, limit))

    sought = list(dict.fromkeys(words(expression.text or "")))  # none: the text was punctuation, an emoji
    ann = NOTHING if vector is None else snapshot.nearest(vector, filters, limit, expression.ef_search)
    if expression.min_cosine is not None:
        near_F = ann.scores_F >= expression.min_cosine
        ann = Found(ann.rows_F[near_F], ann.scores_F[near_F])
    told = expression.text_candidates if vector is not None else None
    of_words = limit if told is None else told
    text = snapshot.matching(sought, filters, of_words) if sought and of_words else NOTHING
    exact = _exact(snapshot, sought, filters) if sought and vector is not None else NOTHING

    rows_H = np.unique(np.concatenate([ann.rows_F, text.rows_F, exact.rows_F]))
    ann_F, text_F, exact_F = (np.searchsorted(rows_H, part.rows_F) for part in (ann, text, exact))
    by_ann_H, by_text_H, exact_H = (np.zeros(len(rows_H), bool) for _ in range(3))
    by_ann_H[ann_F] = by_text_H[text_F] = by_text_H[exact_F] = exact_H[exact_F] = True
    cosine_H, bm25_H = np.zeros(len(rows_H)), np.zeros(len(rows_H))
    if vector is not None:
        cosine_H[ann_F] = ann.scores_F
        cosine_H[~by_ann_H] = snapshot.cosines(vector, rows_H[~by_ann_H])
    if sought:
        bm25_H[text_F], bm25_H[exact_F] = text.scores_F, exact.scores_F
        bm25_H[~by_text_H] = snapshot.bm25s(sought, rows_H[~by_text_H])
    hits = Hits(
        snapshot,
        rows_H,
        cosine_H=np.minimum(np.maximum(cosine_H, -1), 1),
        bm25_H=bm25_H,
        by_ann_H=by_ann_H,
        by_text_H=by_text_H,
        exact_H=exact_H,
    )
    if len(once := _once(snapshot, rows_H)) < len(rows_H):
        hits = hits.take(once)
    if expression.order == "bm25":
        return _ordered(hits, -hits.bm25_H, -hits.cosine_H)
    return _ordered(hits, ~hits.exact_H, -hits.cosine_H, -hits.bm25_H)


def scored(snapshot: Snapshot, expression: Expression, rows_H: Rows) -> Hits:
    """Return these products with the scores of `expression`."""
    sought = list(dict.fromkeys(words(expression.text or "")))
    nothing_H, never_H = np.zeros(len(rows_H)), np.zeros(len(rows_H), bool)
    return Hits(
        snapshot,
        rows_H,
        cosine_H=nothing_H if expression.vector is None else snapshot.cosines(expression.vector, rows_H).clip(-1, 1),
        bm25_H=snapshot.bm25s(sought, rows_H) if sought else nothing_H,
        by_ann_H=never_H,
        by_text_H=never_H,
        exact_H=never_H,
    )


def _browsed(snapshot: Snapshot, newest: Found) -> Hits:
    once = _once(snapshot, newest.rows_F)
    found = Found(newest.rows_F[once], newest.scores_F[once])
    nothing_H, never_H = np.zeros(len(found.rows_F)), np.zeros(len(found.rows_F), bool)
    hits = Hits(
        snapshot,
        found.rows_F,
        cosine_H=nothing_H,
        bm25_H=nothing_H,
        by_ann_H=never_H,
        by_text_H=never_H,
        exact_H=never_H,
    )
    return _ordered(hits, -found.scores_F)


def _once(snapshot: Snapshot, rows_H: Rows) -> NDArray[np.int64]:
    """The places of these rows, without those of products that were deleted between two primitives, and with one of
    each that was rewritten: the last that was found.
    """
    if snapshot.alive(rows_H).all():
        return np.arange(len(rows_H))
    ids = snapshot.product_ids(rows_H)
    place_of = {ids[place]: place for place in np.argsort(rows_H).tolist()}
    there_P = snapshot.rows(list(place_of)) >= 0
    return np.sort(np.array(list(place_of.values()))[there_P])


def _ordered(hits: Hits, *keys: NDArray[np.float64] | NDArray[np.bool_]) -> Hits:
    """The hits by these keys (H,), the first counting most, ascending, and those alike in all of them by their ids."""
    order_H = np.lexsort(keys[::-1])
    alike_H = np.ones(max(0, len(order_H) - 1), bool)
    for key_H in keys:
        alike_H &= key_H[order_H][1:] == key_H[order_H][:-1]
    if alike_H.any():  # only then are ids worth reading
        run_H = np.cumsum(np.concatenate([[0], ~alike_H]))  # numbers the runs of equals
        places = np.flatnonzero(np.isin(run_H, run_H[1:][alike_H]))
        ids = hits.take(order_H[places]).product_ids
        by_id = sorted(range(len(places)), key=lambda place: (run_H[places[place]], ids[place]))
        order_H[places] = order_H[places[by_id]]
    return hits.take(order_H)


def _exact(snapshot: Snapshot, sought: Sequence[str], filters: Filters) -> Found:
    """Find the products that hold every sought word, one of which is rare; there are at most `_RARE` of them."""
    if len(sought) > _EXACT_WORDS:
        return NOTHING
    rare = min(_RARE, max(1, int(_RARE_PART * snapshot.size)))
    held_W = snapshot.frequencies(sought)
    rarest = int(held_W.argmin())
    if not 0 < held_W[rarest] <= rare:
        return NOTHING
    holders_K = snapshot.holders(sought[rarest], rare)
    for word in sought:  # most are gone after the first
        if word != sought[rarest] and len(holders_K):
            holders_K = holders_K[snapshot.bm25s([word], holders_K) > 0]
    return snapshot.matching(sought, filters, len(holders_K), among_K=holders_K) if len(holders_K) else NOTHING
