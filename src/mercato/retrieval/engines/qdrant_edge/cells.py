"""Cells of near vectors (an inverted file, as in Faiss), in which a search within filters looks at the nearest only.

A graph loses its way where filters leave few of a query's neighbours; cells do not: whatever the filters are, the rows
that they leave are looked at cell by cell until there have been enough. They are looked at as bytes (scalar
quantisation), which lie cell by cell: a quarter of what their vectors are, and next to each other.

Shapes: N rows, C cells, P places: where a row is when they are put cell by cell; d the vectors' dimension.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_SAMPLED = 64  # vectors a cell that its centre is found from
_ROUNDS = 8  # of k-means: more changes hardly anything
_BLOCK = 512  # vectors at once: they stay in the core's cache


class Cells(NamedTuple):
    """Rows cell by cell: `rows_N` (uint32), each cell's up to its `ends_C`, and of each its vector as bytes.

    `places_N` (uint32) says where in `rows_N` a row is. `centres_Cd` is float32, of unit length; a vector is about its
    `codes_Nd` (int8) times its `scales_N` (float32).
    """

    centres_Cd: NDArray[np.float32]
    ends_C: NDArray[np.int64]
    rows_N: NDArray[np.uint32]
    places_N: NDArray[np.uint32]
    codes_Nd: NDArray[np.int8]
    scales_N: NDArray[np.float32]

    def cells(self) -> NDArray[np.int64]:
        """The cell of each row, (N,)."""
        return np.searchsorted(self.ends_C, self.places_N, side="right")

    def cosines(self, vector: NDArray[np.float32], places_P: NDArray[np.int64]) -> NDArray[np.float32]:
        """About the cosine of the row at each place, (P,): .001 off."""
        found_P = np.empty(len(places_P), np.float32)
        codes_Bd = np.empty((_BLOCK, len(vector)), np.int8)
        vectors_Bd = np.empty((_BLOCK, len(vector)), np.float32)
        for at in range(0, len(places_P), _BLOCK):
            some_B = places_P[at : at + _BLOCK]
            self.codes_Nd.take(some_B, axis=0, out=codes_Bd[: len(some_B)], mode="clip")  # clip: copied only once
            vectors_Bd[...] = codes_Bd
            np.dot(vectors_Bd[: len(some_B)], vector, out=found_P[at : at + len(some_B)])
        return found_P * self.scales_N[places_P]


def clustered(vectors_Nd: NDArray[np.float32], first: Cells | None = None) -> Cells:
    """Spherical k-means of unit vectors into 4 √N cells.

    `first` are the cells of the rows that come first. Their centres stand until there are twice as many rows as they
    were found from: k-means costs N √N, and compactions are to cost what is new.
    """
    length = len(vectors_Nd)
    count = min(length, int(4 * math.sqrt(length)))
    if first is not None and 2 * len(first.centres_Cd) ** 2 >= count**2:
        centres_Cd = first.centres_Cd
        cell_N = np.concatenate([first.cells(), _nearest(vectors_Nd[len(first.rows_N) :], centres_Cd)])
    else:
        centres_Cd = _centres(vectors_Nd, count)
        cell_N = _nearest(vectors_Nd, centres_Cd)
    rows_N = np.argsort(cell_N, kind="stable").astype(np.uint32)
    ends_C = np.cumsum(np.bincount(cell_N, minlength=len(centres_Cd)))
    places_N = np.argsort(rows_N).astype(np.uint32)
    codes_Nd, scales_N = np.empty(vectors_Nd.shape, np.int8), np.empty(length, np.float32)
    for at in range(0, length, _BLOCK):
        some_Bd = vectors_Nd[rows_N[at : at + _BLOCK]]
        scales_N[at : at + _BLOCK] = np.abs(some_Bd).max(axis=1) / np.iinfo(np.int8).max
        codes_Nd[at : at + _BLOCK] = np.rint(some_Bd / scales_N[at : at + _BLOCK, None])
    return Cells(centres_Cd, ends_C, rows_N, places_N, codes_Nd, scales_N)


def _centres(vectors_Nd: NDArray[np.float32], count: int) -> NDArray[np.float32]:
    length, random = len(vectors_Nd), np.random.default_rng(0)
    sample_Sd = vectors_Nd[np.sort(random.choice(length, min(length, _SAMPLED * count), replace=False))]
    centres_Cd = sample_Sd[random.choice(len(sample_Sd), count, replace=False)]
    for _ in range(_ROUNDS if length else 0):
        cell_S = _nearest(sample_Sd, centres_Cd)
        order_S, own_C = np.argsort(cell_S, kind="stable"), np.bincount(cell_S, minlength=count)
        held_c = np.flatnonzero(own_C)
        sums_cd = np.add.reduceat(sample_Sd[order_S], (np.cumsum(own_C) - own_C)[held_c])
        centres_Cd[held_c] = sums_cd / np.maximum(np.linalg.norm(sums_cd, axis=1, keepdims=True), 1e-12)
    return centres_Cd


def _nearest(vectors_Nd: NDArray[np.float32], centres_Cd: NDArray[np.float32]) -> NDArray[np.int64]:
    nearest_N = np.empty(len(vectors_Nd), np.int64)
    for at in range(0, len(vectors_Nd), _BLOCK):
        nearest_N[at : at + _BLOCK] = (vectors_Nd[at : at + _BLOCK] @ centres_Cd.T).argmax(axis=1)
    return nearest_N
