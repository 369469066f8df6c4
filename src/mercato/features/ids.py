"""IDs as features: which product, of which seller, category and brand, or which query, as a row of an embedding table.

An id is known where enough engaged training pairs have it. Its row is its 64-bit hash modulo the table's buckets, plus
1 (feature hashing, Weinberger et al. 2009; two ids may share a row); row 0 is every unknown id's, and stays zero. Known
ids are kept with a run as sorted hashes, eight bytes each.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import mmh3
import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save

from mercato.errors import MercatoError
from mercato.features.values import folded
from mercato.files import write_atomic

QUERY = "query"  # the name of the query's ids, which are no field of a product
KEYS = ("product_id", "seller_id")  # case tells them apart; brands and categories are written as people please

Hashes = NDArray[np.uint64]
KnownIds = Mapping[str, Hashes]
"""The hashes of the ids that are known, sorted, by field (`QUERY` for queries)."""


def hashes(field: str, values: Iterable[Any]) -> Hashes:
    """The hash of each value of a field; 0 for none, which no table knows."""
    texts = ((value or "").strip() if field in (*KEYS, QUERY) else folded(value) for value in values)
    return np.array([mmh3.hash64(text, signed=False)[0] if text else 0 for text in texts], np.uint64)


def fit_ids(field: str, values: Sequence[Any], least: int) -> Hashes:
    """The ids that are known: those of at least `least` of these values, one an engaged pair; none is no id."""
    different, counts = np.unique(hashes(field, values), return_counts=True)
    known: Hashes = different[(counts >= least) & (different != 0)]
    return known


def id_rows(field: str, values: Iterable[Any], known: Hashes, buckets: int) -> NDArray[np.int64]:
    """The rows (B,) of a field's ids: 1 to `buckets`, 0 for an unknown one."""
    own_B = hashes(field, values)
    if not len(known):
        return np.zeros(len(own_B), np.int64)
    place_B = np.searchsorted(known, own_B).clip(max=len(known) - 1)
    return np.where(known[place_B] == own_B, (own_B % np.uint64(buckets)).astype(np.int64) + 1, 0)


def save_ids(known: KnownIds, file: Path) -> None:
    """Write known ids, a tensor a field."""
    write_atomic(file, save(dict(known)))


def load_ids(file: Path) -> KnownIds:
    """Read what `save_ids` wrote.

    Raises:
        MercatoError: it is not there, or cannot be read.
    """
    try:
        return load_file(file)
    except Exception as error:  # safetensors raises an error of its own, which it does not export everywhere
        raise MercatoError(f"{file}: the ids that this run knows cannot be read: {error}") from None
