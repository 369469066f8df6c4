"""Placing: in which order a page takes what its window holds, under seller diversity and exploration."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from mercato.ranking.ranker import Ranker
from mercato.retrieval.protocol import Hits
from mercato.search.diversity import SellerBound
from mercato.search.exploration import chosen, drawn

PlacedBy = Literal["pin", "exploration"]  # what put a hit where it stands, where that was not the order
Placed = tuple[int, PlacedBy | None]  # a hit, by its place in the window


@dataclass(frozen=True, eq=False)
class Placing:
    """What is known of the H hits of a window, best first, for the pages that are cut from it."""

    sellers_H: NDArray[np.uint64]
    most: float  # listings of one seller on a page
    drawn_E: NDArray[np.int64]  # new listings, by their places, as they are drawn
    chosen_P: NDArray[np.bool_]  # which places of the search go to them, from 0

    @classmethod
    def of(cls, ranker: Ranker, hits: Hits, as_of: datetime, query_id: str, deepest: int) -> Self | None:
        """What a ranker's settings say of the hits that it has ordered; None where they ask for nothing.

        Args:
            ranker: its statistics tell how often a listing was shown.
            hits: best first; they must not be detached.
            as_of: when listings have their age.
            query_id: 24 hexadecimal digits, by which is drawn.
            deepest: the most that a search shows.
        """
        diversity, exploration = ranker.settings.diversity, ranker.settings.exploration
        if diversity is None and exploration is None:
            return None
        columns = hits.signals()
        new_E, chosen_P = np.zeros(0, np.int64), np.zeros(0, bool)
        if exploration is not None:
            new_E = drawn(query_id, columns, ranker.statistics, as_of, exploration)
            chosen_P = chosen(query_id, deepest, exploration)
        return cls(columns.key("seller_id"), diversity.per_seller if diversity else math.inf, new_E, chosen_P)

    def order(self, exact: Iterator[int], others: Iterator[int], new: Iterator[int], position: int) -> Iterator[Placed]:
        """What is left, in the order in which a page takes it, without those of which a seller has too many.

        Exact hits come first, whosever they are, and count for their sellers. What is given here is counted, so the
        page shows all of it: what it does not show must not be among the places.

        Args:
            exact, others: their places, best first.
            new: those of `drawn_E`, in its order, which are among the others too.
            position: that of the page's next hit in the search, from 1.
        """
        bound = SellerBound(self.sellers_H, self.most)
        for place in exact:
            bound.admits(place)
            yield place, None
            position += 1
        taken: set[int] = set()
        admitted_new = (place for place in new if place not in taken and bound.admits(place))
        in_order = (place for place in others if place not in taken and bound.admits(place))
        for at in itertools.count(position):
            given = next(admitted_new, None) if self._is_chosen(at) else None
            following = next(in_order, None) if given is None else given
            if following is None:
                return
            taken.add(following)
            yield following, None if given is None else "exploration"

    def _is_chosen(self, position: int) -> bool:
        return position < len(self.chosen_P) and bool(self.chosen_P[position])
