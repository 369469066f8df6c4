"""Values by key, of many keys at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
from numpy.typing import NDArray

from mercato.data.hashing import hash64
from mercato.data.normalize import normalize

Keys = NDArray[np.uint64]  # hashes of names; 0: unknown
Floats = NDArray[np.float32]

_MIX = np.uint64(0x9E3779B97F4A7C15)  # odd: no two keys become one


@dataclass(frozen=True, eq=False)
class Lookup:
    """Of n keys V values each: `keys_n` ascending, `values_nV` float32."""

    keys_n: Keys
    values_nV: Floats

    @classmethod
    def of(cls, keys_n: Keys, *columns: NDArray[np.number]) -> Self:
        """Of keys in any order, each once, and their values, column by column; the key 0 is left out."""
        order = np.argsort(keys_n)
        order = order[keys_n[order] != 0]
        return cls(keys_n[order].astype(np.uint64), np.stack(columns, axis=1)[order].astype(np.float32))

    def get(self, keys_H: Keys) -> Floats:
        """The values of each key, NaN of one that is unknown: (H, V)."""
        found_HV = np.full((len(keys_H), self.values_nV.shape[1]), np.nan, np.float32)
        if len(self.keys_n):
            place_H = np.searchsorted(self.keys_n, keys_H).clip(max=len(self.keys_n) - 1)
            known_H = self.keys_n[place_H] == keys_H
            found_HV[known_H] = self.values_nV[place_H[known_H]]
        return found_HV


def mixed(first: Keys, second: Keys) -> Keys:
    """One key of two, 0 where either is unknown."""
    both: Keys = np.where((first == 0) | (second == 0), np.uint64(0), (first * _MIX) ^ second)
    return both


def query_key(query: str) -> int:
    """The key of a query in its normal form, whoever asks."""
    return hash64(normalize(query))
