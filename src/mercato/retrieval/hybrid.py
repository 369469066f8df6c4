"""Hybrid search on an engine's primitives: the union of two parts, both scores on each hit, the exact-match rule.

An engine says how it finds products by vector and by words (`Snapshot`); what is made of them is the same for all:
`HybridIndex.search`. An engine that can do several primitives in one go may override it; the contract in
`mercato.retrieval.testing` holds it to the same answers.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence, Set
from contextlib import AbstractContextManager
from itertools import chain
from types import TracebackType
from typing import NamedTuple, Protocol, Self

from mercato.data.words import words
from mercato.errors import MercatoError
from mercato.retrieval.expression import Expression, Filters, Vector
from mercato.retrieval.protocol import Capabilities, Hit, Part

Key = Hashable  # how an engine names a product within one snapshot: a row id, a UUID

# A word is rare where so many products at most have it, and no more than this part of the index (or one product).
_RARE, _RARE_PART = 10, 0.001
_EXACT_WORDS = 16  # a query of more words names nothing by number, and to look for rare ones costs .1 ms a word


class Scored(NamedTuple):
    """One product of a primitive's answer: `score` is the cosine, the BM25 score, or the time it was created."""

    key: Key
    product_id: str
    score: float


class Snapshot(Protocol):
    """One state of an index and the primitives over it.

    Where the engine cannot hold writes back, a product deleted between two primitives is missing from the second.
    Words are those of `mercato.data.words`, each once. A vector is float32 (d,), of unit length and the index's d.
    """

    @property
    def size(self) -> int:
        """The number of products; an estimate will do."""
        ...

    def nearest(self, vector: Vector, filters: Filters, limit: int, ef_search: int) -> Sequence[Scored]:
        """Return the `limit` products of the highest cosine within `filters`, approximately, and fewer only of fewer.

        `ef_search` is the least width of a graph search. Whether to search a graph or exactly is the engine's choice.
        """
        ...

    def matching(
        self, words: Sequence[str], filters: Filters, limit: int, among: Set[Key] | None = None
    ) -> Sequence[Scored]:
        """Return the `limit` products of the highest BM25 score within `filters` that hold any of `words`."""
        ...

    def newest(self, filters: Filters, limit: int) -> Sequence[Scored]:
        """Return the `limit` products created last within `filters`; one without a time is the oldest."""
        ...

    def cosines(self, vector: Vector, keys: Set[Key]) -> dict[Key, float]:
        """Return the cosine of each of these products."""
        ...

    def bm25s(self, words: Sequence[str], keys: Set[Key]) -> dict[Key, float]:
        """Return the BM25 score of those of these products that hold any of `words`."""
        ...

    def holders(self, word: str, limit: int) -> set[Key]:
        """Return the products that hold `word`, at most `limit` of them: its document frequency, up to there."""
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

    def search(self, expression: Expression, limit: int) -> list[Hit]:
        """See `mercato.retrieval.protocol.Index.search`."""
        if limit < 1:
            raise MercatoError(f"limit: at least 1 hit must be asked for, not {limit}")
        if expression.vector is not None and len(expression.vector) != self.dimension:
            raise MercatoError(
                f"vector: {len(expression.vector)} numbers, but the index's vectors have {self.dimension}: encode the "
                "query with the run that built the index"
            )
        if not self.capabilities.text and expression.text is not None:
            if expression.vector is None:
                raise MercatoError("text: this index's engine scores no text: search by vector")
            expression = expression.model_copy(update={"text": None})
        with self.snapshot() as snapshot:
            return merged(snapshot, expression, limit)

    def __enter__(self) -> Self:
        """Return the index itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        self.close()


def merged(snapshot: Snapshot, expression: Expression, limit: int) -> list[Hit]:
    """Return the hits of `expression` in its order: what either part found, scored by both, and all exact hits."""
    vector, filters = expression.vector, expression.filters
    if vector is None and expression.text is None:
        newest = sorted(snapshot.newest(filters, limit), key=lambda found: (-found.score, found.product_id))
        return [Hit(found.product_id, 0.0, 0.0, ()) for found in newest]

    sought = list(dict.fromkeys(words(expression.text or "")))  # none: the text was punctuation, an emoji
    ann = [] if vector is None else snapshot.nearest(vector, filters, limit, expression.ef_search)
    if expression.min_cosine is not None:
        ann = [found for found in ann if found.score >= expression.min_cosine]
    text = snapshot.matching(sought, filters, limit) if sought else []
    exact = _exact(snapshot, sought, filters) if sought and vector is not None else []

    product_ids = {found.key: found.product_id for found in chain(ann, text, exact)}
    cosines = {found.key: found.score for found in ann}
    bm25s = {found.key: found.score for found in chain(text, exact)}
    by_ann, by_text, are_exact = set(cosines), set(bm25s), {found.key for found in exact}
    if vector is not None and (rest := product_ids.keys() - by_ann):
        cosines |= snapshot.cosines(vector, rest)
    if sought and (rest := product_ids.keys() - by_text):
        bm25s |= snapshot.bm25s(sought, rest)

    hits = []
    for key, product_id in product_ids.items():
        if vector is not None and key not in cosines:
            continue  # deleted between two primitives
        ways: tuple[tuple[Part, Set[Key]], ...] = (("ann", by_ann), ("text", by_text))
        found_by = tuple(part for part, keys in ways if key in keys)
        cosine = min(1.0, max(-1.0, cosines.get(key, 0.0)))
        hits.append(Hit(product_id, cosine, bm25s.get(key, 0.0), found_by, key in are_exact))
    if expression.order == "bm25":
        return sorted(hits, key=lambda hit: (-hit.bm25, -hit.cosine, hit.product_id))
    return sorted(hits, key=lambda hit: (not hit.exact, -hit.cosine, -hit.bm25, hit.product_id))


def _exact(snapshot: Snapshot, sought: Sequence[str], filters: Filters) -> Sequence[Scored]:
    """Find the products that hold every sought word, one of which is rare; there are at most `_RARE` of them."""
    if len(sought) > _EXACT_WORDS:
        return []
    rare = min(_RARE, max(1, int(_RARE_PART * snapshot.size)))
    for word in sought:
        holders = snapshot.holders(word, rare + 1)
        if len(holders) <= rare:
            break
    else:
        return []
    for other in sought:  # most are gone after the first
        if other != word and holders:
            holders &= snapshot.bm25s([other], holders).keys()
    return snapshot.matching(sought, filters, len(holders), among=holders) if holders else []
