"""What filters leave of an open generation, worked out once and kept for the next searches under the same filters.

Shapes: N sealed or fresh rows, A sealed rows that are left, P of their places cell by cell (`cells`), C cells.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from mercato.retrieval.engines.qdrant_edge.cells import Cells
from mercato.retrieval.engines.qdrant_edge.columns import Columns
from mercato.retrieval.engines.qdrant_edge.filtering import within
from mercato.retrieval.engines.qdrant_edge.fresh import Fresh
from mercato.retrieval.expression import Filters

KEPT_BYTES = 32 << 20  # of all filters together; a radius about each searcher's place must not fill the memory
_OBJECT_BYTES = 4_000
_BY_CHANCE = 3.0  # times the variance of chance that a cell's share has where filters do not care for nearness


class FilterMask:
    """The rows that filters leave: of the sealed ones that were alive then, of the fresh ones dead ones too."""

    def __init__(self, columns: Columns, cells: Cells, fresh: Fresh, filters: Filters) -> None:
        self._cells, self._fresh, self._filters = cells, fresh, filters
        self.sealed_N = within(columns, filters)
        self.sealed_N[columns.whole("gone")] = False
        self.count = int(np.count_nonzero(self.sealed_N))  # of the sealed ones
        self._fresh_N = np.zeros(0, bool)
        self._by_cell: tuple[NDArray[np.uint32], NDArray[np.int64], bool] | None = None

    @property
    def bytes(self) -> int:
        """The memory that it takes, about."""
        return len(self.sealed_N) + 4 * self.count + 8 * len(self._cells.ends_C)

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
        places_A, ends_C, anywhere = self._by_cell
        if self.count <= wanted:
            return places_A.astype(np.int64)
        left_C, all_C = np.diff(ends_C, prepend=0), np.diff(self._cells.ends_C, prepend=0)
        nearest_C = np.argsort(-(self._cells.centres_Cd @ vector))
        until_C = np.cumsum(left_C[nearest_C])
        if anywhere:
            last = max(np.searchsorted(until_C, wanted // 2), np.searchsorted(np.cumsum(all_C[nearest_C]), wanted))
        else:
            last = np.searchsorted(until_C, wanted + wanted // 2)
        among_C = np.zeros(len(ends_C), bool)
        among_C[nearest_C[: last + 1]] = True
        near_P: NDArray[np.int64] = places_A[np.repeat(among_C, left_C)].astype(np.int64)
        return near_P

    def _put_by_cell(self) -> tuple[NDArray[np.uint32], NDArray[np.int64], bool]:
        """Places, cell by cell (A,), each cell's up to (C,), and whether near rows are left as often as any."""
        places_A = np.sort(self._cells.places_N[np.flatnonzero(self.sealed_N)])
        ends_C = np.searchsorted(places_A, self._cells.ends_C)
        share = self.count / max(1, len(self.sealed_N))
        all_C = np.diff(self._cells.ends_C, prepend=0)
        off_C = np.diff(ends_C, prepend=0) - share * all_C
        return places_A, ends_C, bool(np.sum(off_C**2) <= _BY_CHANCE * share * (1 - share) * np.sum(all_C))


class FilterMasks:
    """Finds what filters leave; safe to share between threads."""

    def __init__(self, columns: Columns, fresh: Fresh) -> None:
        self._columns, self.cells, self._fresh = columns, columns.cells(), fresh
        self._kept: OrderedDict[str, FilterMask] = OrderedDict()  # used last last
        self._bytes, self._lock = 0, Lock()

    def of(self, filters: Filters) -> FilterMask:
        """What these filters leave."""
        key = filters.model_dump_json()
        with self._lock:
            if (known := self._kept.get(key)) is not None:
                self._kept.move_to_end(key)
                return known
        mask = FilterMask(self._columns, self.cells, self._fresh, filters)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = mask
                self._bytes += _weight(key, mask)
            while self._bytes > KEPT_BYTES and len(self._kept) > 1:
                self._bytes -= _weight(*self._kept.popitem(last=False))
        return mask


def _weight(key: str, mask: FilterMask) -> int:
    """The memory that a kept mask takes, with its filters, which a stranger writes, and what Python adds."""
    return mask.bytes + 4 * len(key) + _OBJECT_BYTES
