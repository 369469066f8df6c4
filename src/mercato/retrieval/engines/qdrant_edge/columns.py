"""What a sealed generation knows of its products, column by column: memory-mapped files that are read by row.

    columns/vectors                     float32 (N, d)
            created                     int64 (N,): seconds, 0 unknown
            ids, id_ends                UTF-8, end to end; uint64 (N,)
            hashes, rows                uint64 and uint32 (N,), by hash: the row of an id
            terms, weights, term_ends   uint32, float32, end to end; uint64 (N,): a row's terms and their BM25 weights
            common, holders             uint32: every term, ascending, and how many rows hold it
            gone                        uint32, ascending: rows whose product has another row or none

Shapes: N rows of all, K rows asked about, T terms, d the vectors' dimension.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mercato.retrieval.expression import Vector
from mercato.retrieval.hybrid import Rows

FOLDER = "columns"
KINDS: dict[str, type] = {
    "vectors": np.float32, "ids": np.uint8, "id_ends": np.uint64, "terms": np.uint32, "weights": np.float32,
    "term_ends": np.uint64, "created": np.int64, "hashes": np.uint64, "rows": np.uint32, "common": np.uint32,
    "holders": np.uint32, "gone": np.uint32,
}  # fmt: skip
_APPENDED = ("vectors", "ids", "id_ends", "terms", "weights", "term_ends", "created", "hashes")


@dataclass(frozen=True, slots=True, eq=False)
class Row:
    """One product as the columns hold it."""

    product_id: str
    vector: Vector
    terms: NDArray[np.uint32]
    weights: NDArray[np.float32]
    created: int


class ColumnsWriter:
    """Writes the columns of a generation, row after row; `seal` ends it."""

    def __init__(self, generation: Path, begin: Columns | None = None) -> None:
        """`begin` are the rows that come first, as they are."""
        self._folder = generation / FOLDER
        self._folder.mkdir()
        self._files = ExitStack()
        self._sinks = {name: self._files.enter_context((self._folder / name).open("wb")) for name in _APPENDED}
        self._id_end = self._term_end = self.length = 0
        if begin is not None:
            self._repeat(begin)

    def append(self, rows: Iterable[Row]) -> None:
        """Write some rows behind the others."""
        for row in rows:
            name = row.product_id.encode()
            self._id_end += len(name)
            self._term_end += len(row.terms)
            self._write("vectors", row.vector)
            self._sinks["ids"].write(name)
            self._write("id_ends", self._id_end)
            self._write("terms", row.terms)
            self._write("weights", row.weights)
            self._write("term_ends", self._term_end)
            self._write("created", row.created)
            self._write("hashes", id_hash(row.product_id))
            self.length += 1

    def seal(self, gone: Iterable[int] = ()) -> list[int]:
        """Finish the files; returns the rows that are gone: the given ones, and all but the last of one product."""
        self._files.close()
        hash_N = np.fromfile(self._folder / "hashes", np.uint64)
        order_N = np.argsort(hash_N, kind="stable")
        sorted_N = hash_N[order_N]
        replaced = order_N[:-1][sorted_N[1:] == sorted_N[:-1]]
        gone_G = np.union1d(np.fromiter(gone, np.int64), replaced)
        terms = np.fromfile(self._folder / "terms", np.uint32)
        ends_N = np.fromfile(self._folder / "term_ends", np.uint64).astype(np.int64)
        lengths_N: NDArray[np.int64] = np.diff(ends_N, prepend=np.int64(0))
        alive_N = np.ones(self.length, bool)
        alive_N[gone_G] = False
        common, holders = np.unique(terms[np.repeat(alive_N, lengths_N)], return_counts=True)
        for name, values in (
            ("hashes", sorted_N), ("rows", order_N), ("common", common), ("holders", holders), ("gone", gone_G),
        ):  # fmt: skip
            values.astype(KINDS[name]).tofile(self._folder / name)
        return [int(row) for row in gone_G]

    def _write(self, name: str, values: Any) -> None:
        self._sinks[name].write(np.asarray(values, KINDS[name]).tobytes())

    def _repeat(self, old: Columns) -> None:
        for name in _APPENDED:
            values = old.hash_of_rows() if name == "hashes" else old.whole(name)
            self._sinks[name].write(np.ascontiguousarray(values).data)
        self.length = len(old)
        self._id_end, self._term_end = len(old.whole("ids")), len(old.whole("terms"))


class Columns:
    """The sealed columns of a generation, read by row number."""

    def __init__(self, generation: Path, dimension: int) -> None:
        self._arrays = {name: _mapped(generation / FOLDER / name, kind) for name, kind in KINDS.items()}
        self._arrays["vectors"] = self._arrays["vectors"].reshape(-1, dimension)

    def __len__(self) -> int:
        return len(self._arrays["created"])

    def whole(self, name: str) -> NDArray[Any]:
        """A whole column."""
        return self._arrays[name]

    def vectors(self, rows_K: Rows) -> NDArray[np.float32]:
        """The vectors of some rows, (K, d)."""
        found_KD: NDArray[np.float32] = self._arrays["vectors"][rows_K]
        return found_KD

    def product_ids(self, rows_K: Rows) -> list[str]:
        """The ids of some rows."""
        ids, ends = self._arrays["ids"], self._arrays["id_ends"]
        stops = ends[rows_K].astype(np.int64)
        starts = np.where(rows_K > 0, ends[np.maximum(rows_K - 1, 0)].astype(np.int64), 0)
        return [ids[start:stop].tobytes().decode() for start, stop in zip(starts.tolist(), stops.tolist(), strict=True)]

    def row_of(self, product_id: str) -> int | None:
        """The last row of a product, None where it has none."""
        wanted, hashes = id_hash(product_id), self._arrays["hashes"]
        place = int(np.searchsorted(hashes, np.uint64(wanted), side="right")) - 1
        if place < 0 or hashes[place] != wanted:
            return None
        return int(self._arrays["rows"][place])

    def hash_of_rows(self) -> NDArray[np.uint64]:
        """The hash of each row's id, (N,)."""
        hash_N = np.empty(len(self), np.uint64)
        hash_N[self._arrays["rows"]] = self._arrays["hashes"]
        return hash_N

    def terms_of(self, row: int) -> NDArray[np.uint32]:
        """The terms that a row holds."""
        ends = self._arrays["term_ends"]
        found: NDArray[np.uint32] = self._arrays["terms"][int(ends[row - 1]) if row else 0 : int(ends[row])]
        return found

    def weights(self, terms_T: NDArray[np.uint32], rows_K: Rows) -> NDArray[np.float32]:
        """The BM25 weight, before the IDF, of each of these terms in each of these rows: (K, T)."""
        ends = self._arrays["term_ends"]
        stops_K = ends[rows_K].astype(np.int64)
        starts_K = np.where(rows_K > 0, ends[np.maximum(rows_K - 1, 0)].astype(np.int64), 0)
        return gathered(self._arrays["terms"], self._arrays["weights"], starts_K, stops_K, terms_T)

    def holders(self, terms_T: NDArray[np.uint32]) -> NDArray[np.int64]:
        """How many rows that are not gone hold each term, (T,)."""
        return counted(self._arrays["common"], self._arrays["holders"], terms_T)


def id_hash(product_id: str) -> int:
    """A 64-bit hash of a product's id; two of a billion products are alike with a chance of 3 %."""
    return int.from_bytes(hashlib.blake2b(product_id.encode(), digest_size=8).digest(), "little")


def gathered(
    terms: NDArray[np.uint32],
    weights: NDArray[np.float32],
    starts_K: NDArray[np.int64],
    stops_K: NDArray[np.int64],
    terms_T: NDArray[np.uint32],
) -> NDArray[np.float32]:
    """Of rows that lie end to end, the weight of each wanted term: (K, T)."""
    lengths_K = stops_K - starts_K
    owner = np.repeat(np.arange(len(starts_K)), lengths_K)
    flat = (
        np.arange(lengths_K.sum())
        - np.repeat(lengths_K.cumsum() - lengths_K, lengths_K)
        + np.repeat(starts_K, lengths_K)
    )
    order_T = np.argsort(terms_T)
    sorted_T = terms_T[order_T]
    own = terms[flat]
    place = np.searchsorted(sorted_T, own).clip(max=max(0, len(sorted_T) - 1))
    found_KT = np.zeros((len(starts_K), len(terms_T)), np.float32)
    if len(terms_T):
        held = sorted_T[place] == own
        found_KT[owner[held], order_T[place[held]]] = weights[flat[held]]
    return found_KT


def counted(known: NDArray[np.uint32], counts: NDArray[np.uint32], terms_T: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The count of each term, 0 for one that is not among the known ones, which ascend."""
    if not len(known):
        return np.zeros(len(terms_T), np.int64)
    place_T = np.searchsorted(known, terms_T).clip(max=len(known) - 1)
    return np.where(known[place_T] == terms_T, counts[place_T], 0).astype(np.int64)


def _mapped(file: Path, kind: type) -> NDArray[Any]:
    return np.asarray(np.memmap(file, kind, "r")) if file.stat().st_size else np.zeros(0, kind)
