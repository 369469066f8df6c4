"""Cutting a page: hits are taken from windows until it is full, each as its product is stored now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice

import numpy as np
from numpy.typing import NDArray

from mercato.catalogue.products import ProductDocument
from mercato.catalogue.store import Catalogue
from mercato.retrieval.protocol import Hit
from mercato.search.paging import Cursor
from mercato.search.placing import Placed, PlacedBy
from mercato.search.request import SearchRequest
from mercato.search.window import Sift, Window, distance_km, satisfies

_AT_ONCE = 32  # candidates read at least, where some of the first are not shown


@dataclass(frozen=True)
class PageHit:
    """A hit on a page: its place over all pages, counted from 1, and its product as it is stored now."""

    position: int
    hit: Hit
    product: ProductDocument
    distance_km: float | None  # from the searcher's location
    rank_score: float | None  # what it was ordered by; None where nothing ranked
    places: Mapping[str, int] | None  # among the candidates, from 1: by retrieval, then by each ranking stage
    placed_by: PlacedBy | None  # what put it here; None: the order
    features_F: NDArray[np.float32] | None  # what it was ordered by, where the search is logged


class PageCut:
    """The hits of one page; no product is read twice, however often the page is begun anew."""

    def __init__(self, catalogue: Catalogue, request: SearchRequest, cursor: Cursor, count: int) -> None:
        """Of the search that `cursor` has brought so far, `count` hits at most."""
        self._catalogue, self._request, self._cursor, self._count = catalogue, request, cursor, count
        self._read: dict[str, ProductDocument | None] = {}  # None: there is no such product
        self._found: dict[str, PageHit] = {}

    @property
    def hits(self) -> tuple[PageHit, ...]:
        """Those that have been taken."""
        return tuple(self._found.values())[: self._count]

    @property
    def is_full(self) -> bool:
        """Whether there are as many as were asked for."""
        return len(self._found) >= self._count

    @property
    def position(self) -> int:
        """That of the next hit."""
        return len(self._cursor.shown) + len(self._found) + 1

    def clear(self) -> None:
        """Begin anew."""
        self._found.clear()

    def take(self, window: Window, order: Callable[[Sift], Iterator[Placed]]) -> None:
        """Take hits of a window until the page is full.

        `order` gives them by their places in the window. It is given a sieve, that lets through, of places in any
        order, those of hits that the page may show next: what is not shown is to count for nothing.
        """
        read: dict[int, Hit] = {}
        left = self._count - len(self._found)

        def sift(places: Iterator[int]) -> Iterator[int]:
            at_once = left
            while some := list(islice(places, at_once)):
                at_once = max(_AT_ONCE, 2 * at_once)  # many may have changed since they were indexed
                hits = dict(zip(some, window.hits.take(np.array(some, np.int64)), strict=True))
                if unread := [hit.product_id for hit in hits.values() if hit.product_id not in self._read]:
                    self._read.update(dict.fromkeys(unread) | self._catalogue.products.get_many(unread))
                read.update(hits)
                yield from (place for place, hit in hits.items() if self._may_show(hit.product_id))

        for place, placed_by in islice(order(sift), left):
            hit = read[place]
            product = self._read[hit.product_id]
            assert product is not None  # it came through the sieve
            distance = distance_km(self._request.location, product)
            self._found[hit.product_id] = PageHit(
                self.position, hit, product, distance, *window.ranking(place), placed_by, window.features(place)
            )

    def _may_show(self, product_id: str) -> bool:
        """Whether the product exists, still meets the filters, and is not on the page already."""
        product = self._read[product_id]  # the index may still hold what was just deleted, or it twice
        return product is not None and product_id not in self._found and satisfies(product, self._request.filters)
