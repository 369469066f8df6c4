"""What filters leave of an open generation, worked out once and kept for the next searches under the same filters.

It is kept as bits, so that filters of ten million products take 1 to 6 MB: `KEPT_BYTES` holds several of them.

Shapes: N sealed or fresh rows, A sealed rows that are left, P of their places cell by cell (`cells`), C cells.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mercato.retrieval.engines.qdrant_edge.cells import Cells
from mercato.retrieval.engines.qdrant_edge.columns import Columns
from mercato.retrieval.engines.qdrant_edge.filtering import within
from mercato.retrieval.engines.qdrant_edge.fresh import Fresh
from mercato.retrieval.expression import Filters
from mercato.retrieval.signals import spans

KEPT_BYTES = 32 << 20  # of all filters together; a radius about each searcher's place must not fill the memory
_OBJECT_BYTES = 4_000
_WIDE = 1 / 8  # of the sealed rows: where more are left, their places are kept as bits too, else one by one
_BY_CHANCE = 3.0  # times the variance of chance that a cell's share has where filters do not care for nearness


class _ByCell(NamedTuple):
    """What is left cell by cell: its places as bits (N / 8,) or one by one (A,), how many each cell has, and whether
    near rows are left as often as any.
    """

    places: NDArray[Any]
    left_C: NDArray[np.int64]
    anywhere: bool


class FilterMask:
    """The rows that filters leave: of the sealed ones that were alive then, of the fresh ones dead ones too."""

    def __init__(self, columns: Columns, cells: Cells, fresh: Fresh, filters: Filters) -> None:
        self._cells, self._fresh, self._filters = cells, fresh, filters
        sealed_N = within(columns, filters)
        sealed_N[columns.whole("gone")] = False
        self._length, self._bits = len(sealed_N), np.packbits(sealed_N)
        self.count = int(np.count_nonzero(sealed_N))  # of the sealed ones
        self._fresh_N = np.zeros(0, bool)
        self._by_cell: _ByCell | None = None

    @property
    def bytes(self) -> int:
        """The memory that it takes, about, once the next search has been."""
        places = len(self._bits) if self._is_wide else 4 * self.count
        return len(self._bits) + places + 8 * len(self._cells.ends_C) + len(self._fresh)

    @property
    def _is_wide(self) -> bool:
        return self.count > _WIDE * self._length

    def sealed(self) -> NDArray[np.bool_]:
        """Which sealed rows are left, (N,)."""
        return np.unpackbits(self._bits, count=self._length).view(bool)

    def holds(self, rows_K: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of these sealed rows are left, (K,)."""
        return _tested(self._bits, rows_K)

    def fresh(self) -> NDArray[np.bool_]:
        """Which fresh rows are left, (N,)."""
        known_N = self._fresh_N
        if len(known_N) < len(self._fresh):
            self._fresh_N = known_N = np.concatenate([known_N, within(self._fresh, self._filters, len(known_N))])
        return known_N

    def near(self, vector: NDArray[np.float32], wanted: int) -> NDArray[np.int64]:
        """The places of the sealed rows in the nearest cells, (P,), or of all where they are no more than `wanted`.

        The cells have half as many again as `wanted` that are left: a query may be far from all of them, which are then
        about equally far. Where the filters do not care for nearness, half of `wanted`, in cells of `wanted` rows, do.
        """
        if self._by_cell is None:
            self._by_cell = self._put_by_cell()
        places, left_C, anywhere = self._by_cell
        if self.count <= wanted:
            return np.flatnonzero(np.unpackbits(places)) if self._is_wide else places.astype(np.int64)
        all_C = np.diff(self._cells.ends_C, prepend=0)
        nearest_C = np.argsort(-(self._cells.centres_Cd @ vector))
        until_C = np.cumsum(left_C[nearest_C])
        if anywhere:
            last = max(np.searchsorted(until_C, wanted // 2), np.searchsorted(np.cumsum(all_C[nearest_C]), wanted))
        else:
            last = np.searchsorted(until_C, wanted + wanted // 2)
        among_c = np.sort(nearest_C[: last + 1])
        if self._is_wide:
            all_P = spans(self._cells.ends_C[among_c] - all_C[among_c], all_C[among_c])
            return all_P[_tested(places, all_P)]
        near_P: NDArray[np.int64] = places[spans(np.cumsum(left_C)[among_c] - left_C[among_c], left_C[among_c])].astype(
            np.int64
        )
        return near_P

    def _put_by_cell(self) -> _ByCell:
        if self._is_wide:
            left_N = self.sealed()[self._cells.rows_N]
            places, ends_C = np.packbits(left_N), np.searchsorted(np.flatnonzero(left_N), self._cells.ends_C)
        else:
            places = np.sort(self._cells.places_N[np.flatnonzero(self.sealed())])
            ends_C = np.searchsorted(places, self._cells.ends_C)
        share = self.count / max(1, self._length)
        left_C, all_C = np.diff(ends_C, prepend=0), np.diff(self._cells.ends_C, prepend=0)
        off_C = left_C - share * all_C
        anywhere = np.sum(off_C**2) <= _BY_CHANCE * share * (1 - share) * np.sum(all_C)
        return _ByCell(places, left_C, bool(anywhere))


class FilterMasks:
    """Finds what filters leave; safe to share between threads."""

    def __init__(self, columns: Columns, fresh: Fresh) -> None:
        self._columns, self.cells, self._fresh = columns, columns.cells(), fresh
        self._kept: OrderedDict[str, tuple[FilterMask, int]] = OrderedDict()  # with its weight; used last last
        self._bytes, self._lock = 0, Lock()

    def of(self, filters: Filters) -> FilterMask:
        """What these filters leave."""
        key = filters.model_dump_json()
        with self._lock:
            if key in self._kept:
                return self._keep(key, self._kept[key][0])
        mask = FilterMask(self._columns, self.cells, self._fresh, filters)
        with self._lock:
            return self._keep(key, mask)

    def _keep(self, key: str, mask: FilterMask) -> FilterMask:
        """Keep a mask as the one that was used last, by what it weighs now: it grows with what is fresh."""
        _, before = self._kept.pop(key, (mask, 0))
        self._kept[key] = mask, _weight(key, mask)
        self._bytes += self._kept[key][1] - before
        while self._bytes > KEPT_BYTES and len(self._kept) > 1:  # one stays: a search asks for it several times
            self._bytes -= self._kept.popitem(last=False)[1][1]
        return mask


def _weight(key: str, mask: FilterMask) -> int:
    """The memory that a kept mask takes, with its filters, which a stranger writes, and what Python adds."""
    return mask.bytes + 4 * len(key) + _OBJECT_BYTES


def _tested(bits: NDArray[np.uint8], places_P: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Which of these places' bits are set, (P,), as `numpy.packbits` packs them."""
    found_P: NDArray[np.bool_] = (bits[places_P >> 3] << (places_P & 7).astype(np.uint8) & 128).astype(bool)
    return found_P
