"""Seller diversity: a page shows at most so many listings of one seller, as long as the search finds others."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray


class SellerBound:
    """Counts the listings of each seller on one page."""

    def __init__(self, sellers_H: NDArray[np.uint64], most: float) -> None:
        """`sellers_H` has the key of each hit's seller, 0 where it is unknown: such a hit is nobody's."""
        self._sellers_H, self._most = sellers_H, most
        self._counts: Counter[int] = Counter()

    def admits(self, place: int) -> bool:
        """Whether one more listing of this hit's seller may stand on the page; then it is counted."""
        seller = int(self._sellers_H[place])
        if seller and self._counts[seller] >= self._most:
            return False
        self._counts[seller] += 1
        return True
