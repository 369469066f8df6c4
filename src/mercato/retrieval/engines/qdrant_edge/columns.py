"""What a sealed generation knows of its products, column by column: memory-mapped files that are read by row.

    columns/vectors                     float32 (N, d)
            created                     int64 (N,): seconds, 0 unknown
            ids, id_ends                UTF-8, end to end; uint64 (N,)
            hashes, rows                uint64 and uint32 (N,), by hash: the row of an id
            terms, weights, term_ends   uint32, float32, end to end; uint64 (N,): a row's terms and their BM25 weights
            common, holders             uint32: every term, ascending, and how many rows hold it
            gone                        uint32, ascending: rows whose product has another row or none
            prices, places              float64 (N,) and (N, 3): what filters ask about, see `filtering`
            keywords, keyword_ends,     uint64: the hash of every keyword of a field, ascending; uint64, uint32, end to
            keyword_rows                end: the rows that hold it, ascending
            newest                      uint32 (N,): the rows, those created last first
            centres, cell_ends,         float32 (C, d), uint64 (C,): see `cells`
            cell_rows, cell_places,     uint32 (N,)
            cell_codes, cell_scales     int8 (N, d), float32 (N,)
            numbers, keys               float32 (N, 8), uint64 (N, 6): for ranking, see `mercato.retrieval.signals`
            section_words, section_ends uint32, end to end; uint64 (N, 6): the words of each section of a product

Shapes: N rows of all, K rows asked about, T terms, d the vectors' dimension.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mercato.data.hashing import hash64
from mercato.retrieval.engines.qdrant_edge.cells import Cells, clustered
from mercato.retrieval.engines.qdrant_edge.filtering import price_and_place
from mercato.retrieval.engines.qdrant_edge.log import Entry
from mercato.retrieval.engines.qdrant_edge.payload import held
from mercato.retrieval.hybrid import Rows
from mercato.retrieval.signals import KEYS, NUMBERS, SECTIONS, SignalColumns, spans

FOLDER = "columns"
KINDS: dict[str, type] = {
    "vectors": np.float32, "ids": np.uint8, "id_ends": np.uint64, "terms": np.uint32, "weights": np.float32,
    "term_ends": np.uint64, "created": np.int64, "hashes": np.uint64, "rows": np.uint32, "common": np.uint32,
    "holders": np.uint32, "gone": np.uint32, "prices": np.float64, "places": np.float64, "keywords": np.uint64,
    "keyword_ends": np.uint64, "keyword_rows": np.uint32, "newest": np.uint32, "centres": np.float32,
    "cell_ends": np.uint64, "cell_rows": np.uint32, "cell_places": np.uint32,
    "cell_codes": np.int8, "cell_scales": np.float32, "numbers": np.float32, "keys": np.uint64,
    "section_words": np.uint32, "section_ends": np.uint64,
}  # fmt: skip
_APPENDED = (
    "vectors", "ids", "id_ends", "terms", "weights", "term_ends", "created", "hashes", "prices", "places", "keywords",
    "keyword_rows", "numbers", "keys", "section_words", "section_ends",
)  # fmt: skip


class ColumnsWriter:
    """Writes the columns of a generation, row after row; `seal` ends it."""

    def __init__(self, generation: Path, begin: Columns | None = None) -> None:
        """`begin` are the rows that come first, as they are."""
        self.folder = generation / FOLDER
        self.folder.mkdir()
        self._files = ExitStack()
        self._sinks = {name: self._files.enter_context((self.folder / name).open("wb")) for name in _APPENDED}
        self._id_end = self._term_end = self._section_end = self.length = 0
        self._begin = begin
        if begin is not None:
            self._repeat(begin)

    def append(self, entries: Iterable[Entry]) -> None:
        """Write the rows of some products behind the others."""
        for entry in entries:
            name = entry.product_id.encode()
            keywords = [keyword_hash(*keyword) for keyword in held(entry.fields)]
            price, *place = price_and_place(entry.fields)
            self._id_end += len(name)
            self._term_end += len(entry.terms)
            self._write("vectors", entry.vector)
            self._sinks["ids"].write(name)
            self._write("id_ends", self._id_end)
            self._write("terms", entry.terms)
            self._write("weights", entry.weights)
            self._write("term_ends", self._term_end)
            self._write("created", entry.fields.get("created_at", 0))
            self._write("hashes", hash64(entry.product_id))
            self._write("prices", price)
            self._write("places", place)
            self._write("keywords", keywords)
            self._write("keyword_rows", np.full(len(keywords), self.length))
            self._write("numbers", entry.signals.numbers_N)
            self._write("keys", entry.signals.keys_K)
            self._write("section_words", entry.signals.words_W)
            self._write("section_ends", self._section_end + entry.signals.ends_S.astype(np.uint64))
            self._section_end += len(entry.signals.words_W)
            self.length += 1

    def seal(self, gone: Iterable[int] = ()) -> list[int]:
        """Finish the files; returns the rows that are gone: the given ones, and all but the last of one product."""
        self._files.close()
        hash_N = np.fromfile(self.folder / "hashes", np.uint64)
        order_N = np.argsort(hash_N, kind="stable")
        sorted_N = hash_N[order_N]
        replaced = order_N[:-1][sorted_N[1:] == sorted_N[:-1]]
        gone_G = np.union1d(np.fromiter(gone, np.int64), replaced)
        terms = np.fromfile(self.folder / "terms", np.uint32)
        ends_N = np.fromfile(self.folder / "term_ends", np.uint64).astype(np.int64)
        lengths_N: NDArray[np.int64] = np.diff(ends_N, prepend=np.int64(0))
        alive_N = np.ones(self.length, bool)
        alive_N[gone_G] = False
        common, holders = np.unique(terms[np.repeat(alive_N, lengths_N)], return_counts=True)
        self._put(hashes=sorted_N, rows=order_N, common=common, holders=holders, gone=gone_G)
        self._seal_filters()
        return [int(row) for row in gone_G]

    def _seal_filters(self) -> None:
        """What filtered searches and browses go through, in their orders."""
        of_row = np.fromfile(self.folder / "keywords", np.uint64)
        order = np.argsort(of_row, kind="stable")  # rows were written ascending, and those of one keyword remain so
        keywords, holding = np.unique(of_row[order], return_counts=True)
        rows = np.fromfile(self.folder / "keyword_rows", np.uint32)[order]
        newest_N = np.argsort(-np.fromfile(self.folder / "created", np.int64), kind="stable")
        vectors_Nd = _mapped(self.folder / "vectors", np.float32).reshape(self.length, -1 if self.length else 0)
        cells = clustered(vectors_Nd, None if self._begin is None else self._begin.cells())
        self._put(keywords=keywords, keyword_ends=np.cumsum(holding), keyword_rows=rows, newest=newest_N)
        self._put(centres=cells.centres_Cd, cell_ends=cells.ends_C, cell_rows=cells.rows_N)
        self._put(cell_places=cells.places_N, cell_codes=cells.codes_Nd, cell_scales=cells.scales_N)

    def _put(self, **columns: NDArray[Any]) -> None:
        for name, values in columns.items():
            values.astype(KINDS[name], copy=False).tofile(self.folder / name)

    def _write(self, name: str, values: Any) -> None:
        self._sinks[name].write(np.asarray(values, KINDS[name]).tobytes())

    def _repeat(self, old: Columns) -> None:
        sorted_since = {"hashes": old.hash_of_rows(), "keywords": old.keyword_of_rows()}
        for name in _APPENDED:
            values = sorted_since.get(name, old.whole(name))
            self._sinks[name].write(np.ascontiguousarray(values).data)
        self.length = len(old)
        self._id_end, self._term_end = len(old.whole("ids")), len(old.whole("terms"))
        self._section_end = len(old.whole("section_words"))


class Columns:
    """The sealed columns of a generation, read by row number."""

    def __init__(self, generation: Path, dimension: int) -> None:
        self._arrays = {name: _mapped(generation / FOLDER / name, kind) for name, kind in KINDS.items()}
        widths = {"vectors": dimension, "centres": dimension, "cell_codes": dimension, "places": 3}
        for name, width in (widths | {"numbers": len(NUMBERS), "keys": len(KEYS)}).items():
            self._arrays[name] = self._arrays[name].reshape(-1, width)
        if len(self._arrays["vectors"]) != len(self):
            raise ValueError(f"{len(self._arrays['vectors']):,} vectors of {dimension} numbers for {len(self):,} rows")

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
        wanted, hashes = hash64(product_id), self._arrays["hashes"]
        place = int(np.searchsorted(hashes, np.uint64(wanted), side="right")) - 1
        if place < 0 or hashes[place] != wanted:
            return None
        return int(self._arrays["rows"][place])

    def signals(self, rows_K: Rows) -> SignalColumns:
        """What ranking reads of some rows."""
        words = self._arrays["section_words"], self._arrays["section_ends"]
        return SignalColumns(self._arrays["numbers"][rows_K], self._arrays["keys"][rows_K], *sections(*words, rows_K))

    def entries(self, rows_K: Rows, fields: Iterable[Mapping[str, Any]]) -> Iterator[Entry]:
        """Some rows as they were written; `fields`, which only the engine keeps whole, are those of each."""
        ends = self._arrays["term_ends"]
        parts = zip(rows_K.tolist(), self.product_ids(rows_K), fields, self.signals(rows_K).apart(), strict=True)
        for row, product_id, own, signals in parts:
            terms = slice(int(ends[row - 1]) if row else 0, int(ends[row]))
            yield Entry(
                product_id,
                self._arrays["vectors"][row],
                self._arrays["terms"][terms],
                self._arrays["weights"][terms],
                own,
                signals,
            )

    def hash_of_rows(self) -> NDArray[np.uint64]:
        """The hash of each row's id, (N,)."""
        hash_N = np.empty(len(self), np.uint64)
        hash_N[self._arrays["rows"]] = self._arrays["hashes"]
        return hash_N

    def keyword_of_rows(self) -> NDArray[np.uint64]:
        """The keyword that each of `keyword_rows` holds."""
        ends = self._arrays["keyword_ends"].astype(np.int64)
        held: NDArray[np.uint64] = np.repeat(self._arrays["keywords"], np.diff(ends, prepend=0))
        return held

    def prices(self) -> NDArray[np.float64]:
        """See `FilterColumns`."""
        return self.whole("prices")

    def places(self) -> NDArray[np.float64]:
        """See `FilterColumns`."""
        return self.whole("places")

    def holding(self, name: str, keyword: str) -> Rows:
        """See `FilterColumns`."""
        wanted, known, ends = keyword_hash(name, keyword), self._arrays["keywords"], self._arrays["keyword_ends"]
        place = int(np.searchsorted(known, np.uint64(wanted)))
        if place == len(known) or known[place] != wanted:
            return np.zeros(0, np.int64)
        rows: NDArray[np.uint32] = self._arrays["keyword_rows"][int(ends[place - 1]) if place else 0 : int(ends[place])]
        return rows.astype(np.int64)

    def cells(self) -> Cells:
        """The cells of the rows."""
        ends_C = self.whole("cell_ends").astype(np.int64)
        of_rows = (self.whole(f"cell_{name}") for name in ("rows", "places", "codes", "scales"))
        return Cells(self.whole("centres"), ends_C, *of_rows)

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


def keyword_hash(name: str, keyword: str) -> int:
    """A 64-bit hash of a keyword in a field."""
    return hash64(f"{name}\0{keyword}")


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
    flat = spans(starts_K, lengths_K)
    order_T = np.argsort(terms_T)
    sorted_T = terms_T[order_T]
    own = terms[flat]
    place = np.searchsorted(sorted_T, own).clip(max=max(0, len(sorted_T) - 1))
    found_KT = np.zeros((len(starts_K), len(terms_T)), np.float32)
    if len(terms_T):
        held = sorted_T[place] == own
        found_KT[owner[held], order_T[place[held]]] = weights[flat[held]]
    return found_KT


def sections(
    words: NDArray[np.uint32], ends: NDArray[Any], rows_K: Rows
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Of rows whose sections lie end to end, `ends` being those of each (N · S,): their words, end to end, and how many
    each section has (K, S).
    """
    count = len(SECTIONS)
    ends_KS = ends.reshape(-1, count)[rows_K].astype(np.int64)
    starts_K = np.where(rows_K > 0, ends[np.maximum(rows_K * count - 1, 0)].astype(np.int64), 0)
    lengths_KS = np.diff(ends_KS, axis=1, prepend=starts_K[:, None])
    return words[spans(starts_K, lengths_KS.sum(axis=1))], lengths_KS


def counted(known: NDArray[np.uint32], counts: NDArray[np.uint32], terms_T: NDArray[np.uint32]) -> NDArray[np.int64]:
    """The count of each term, 0 for one that is not among the known ones, which ascend."""
    if not len(known):
        return np.zeros(len(terms_T), np.int64)
    place_T = np.searchsorted(known, terms_T).clip(max=len(known) - 1)
    return np.where(known[place_T] == terms_T, counts[place_T], 0).astype(np.int64)


def _mapped(file: Path, kind: type) -> NDArray[Any]:
    return np.asarray(np.memmap(file, kind, "r")) if file.stat().st_size else np.zeros(0, kind)
