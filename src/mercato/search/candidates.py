"""Candidates: the hits of one index search in the order of the search, and how far down that order is certain."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from mercato.catalogue.products import ProductDocument
from mercato.catalogue.store import Catalogue
from mercato.retrieval.expression import Expression
from mercato.retrieval.protocol import Hit, Index
from mercato.search.paging import Position

Key = tuple[bool, float, str]
_TOP: Key = (False, -math.inf, "")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A hit and its score in this search: cosine, BM25, or in a browse the time it was created (seconds)."""

    hit: Hit
    score: float

    @property
    def key(self) -> Key:
        """What candidates are sorted by: exact first, score down, id up."""
        return not self.hit.exact, -self.score, self.hit.product_id


@dataclass(frozen=True, slots=True)
class Slice:
    """Some candidates that follow each other, and whether more follow."""

    candidates: tuple[Candidate, ...]
    more: bool


@dataclass(frozen=True)
class Candidates:
    """What the index gave for `expression` under `limit`, in order."""

    expression: Expression
    limit: int
    ranking: tuple[Candidate, ...]

    @classmethod
    def retrieve(cls, index: Index, catalogue: Catalogue, expression: Expression, limit: int) -> Candidates:
        """Ask the index; a browse takes the times of creation from the catalogue."""
        hits = index.search(expression, limit)
        if expression.vector is not None:
            candidates = [Candidate(hit, hit.cosine) for hit in hits]
        elif expression.text is not None:
            candidates = [Candidate(hit, hit.bm25) for hit in hits]
        else:
            products = catalogue.products.get_many([hit.product_id for hit in hits])
            candidates = [Candidate(hit, _created_at(products, hit)) for hit in hits]
        return cls(expression, limit, tuple(sorted(candidates, key=lambda candidate: candidate.key)))

    def after(self, position: Position | None, size: int) -> Slice:
        """The `size` candidates that follow a position, the first ones where it is None."""
        key = (not position.exact, -position.score, position.product_id) if position else _TOP
        following = [candidate for candidate in self.ranking if candidate.key > key]
        return Slice(tuple(following[:size]), len(following) > size)

    def next_limit(self, page: Slice, depth: int) -> int | None:
        """The limit under which `page` may still change, or None where it is certain.

        While the leading part (ANN, or text where there is no vector) has more to give, that is where the page's last
        score lies above the last one it gave, so that no equal score is cut off. Once it has given all, only its own
        hits are certain: what follows (words matched below `min_cosine`) has its order at full depth. Exact hits always
        come all at once.
        """
        lead = "ann" if self.expression.vector is not None else "text"
        browse = self.expression.vector is None and self.expression.text is None
        leading = [candidate for candidate in self.ranking if browse or lead in candidate.hit.found_by]
        by_text = sum("text" in candidate.hit.found_by for candidate in self.ranking) if lead == "ann" else 0
        if self.limit == depth or (len(leading) < self.limit and by_text < self.limit):
            return None
        last = page.candidates[-1] if page.more else None
        if len(leading) < self.limit:
            own = all(candidate.hit.exact or lead in candidate.hit.found_by for candidate in page.candidates)
            return None if last and own else depth
        if last and (last.hit.exact or last.score > leading[-1].score):
            return None
        return min(2 * self.limit, depth)


def _created_at(products: Mapping[str, ProductDocument], hit: Hit) -> int:
    """When a product was created, in whole seconds as in the index; one that does not say is the oldest."""
    product = products.get(hit.product_id)
    created = product["created_at"] if product else None
    return int(datetime.fromisoformat(created).timestamp()) if created else 0
