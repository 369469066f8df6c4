"""What was written since the generation was sealed, in memory: found by looking at every row, as there are few.

Shapes: N rows of all, K rows asked about, T terms, L matching rows.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mercato.retrieval.engines.qdrant_edge.columns import gathered, sections
from mercato.retrieval.engines.qdrant_edge.filtering import price_and_place
from mercato.retrieval.engines.qdrant_edge.log import Entry
from mercato.retrieval.engines.qdrant_edge.payload import held
from mercato.retrieval.hybrid import Rows
from mercato.retrieval.signals import KEYS, NUMBERS, SECTIONS, SignalColumns


class Growing:
    """An array that grows at its end. A view that was taken stays as it was, whatever comes after."""

    def __init__(self, kind: type, *width: int) -> None:
        self._array: NDArray[Any] = np.empty((4, *width), kind)
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def extend(self, values: NDArray[Any]) -> None:
        """Put values (n, …) behind the others."""
        end = self._length + len(values)
        if end > len(self._array):
            larger = np.empty((max(end, 2 * len(self._array)), *self._array.shape[1:]), self._array.dtype)
            larger[: self._length] = self._array[: self._length]
            self._array = larger
        self._array[self._length : end] = values
        self._length = end  # last: a reader beside never sees what is not there yet

    def view(self) -> NDArray[Any]:
        """What is there, (N, …); writing into it changes what is there."""
        return self._array[: self._length]


def _rows() -> Growing:
    return Growing(np.int64)


class Fresh:
    """The rows of a delta; a product that is written again gets another row and leaves the old one dead."""

    def __init__(self, dimension: int) -> None:
        self.row_of: dict[str, int] = {}  # of the living
        self.frequency: Counter[int] = Counter()  # term → living rows that hold it
        self._ids: list[str] = []
        self._numbers = Growing(np.float64, 4)  # price and place
        self._keywords: defaultdict[tuple[str, str], Growing] = defaultdict(
            _rows
        )  # field and keyword → rows, ascending
        self._vectors, self._created, self._alive = Growing(np.float32, dimension), Growing(np.int64), Growing(np.bool_)
        self._terms, self._weights, self._term_ends = Growing(np.uint32), Growing(np.float32), Growing(np.int64)
        self._signals = Growing(np.float32, len(NUMBERS)), Growing(np.uint64, len(KEYS))
        self._section_words, self._section_ends = Growing(np.uint32), Growing(np.int64, len(SECTIONS))
        self._postings: defaultdict[int, Growing] = defaultdict(_rows)  # term → rows, ascending, dead ones too
        self._posted: defaultdict[int, Growing] = defaultdict(lambda: Growing(np.float32))  # their weights of the term

    def __len__(self) -> int:
        """The rows that may be read, dead ones too."""
        return len(self._alive)

    @property
    def living(self) -> int:
        """The number of products."""
        return len(self.row_of)

    def add(self, entry: Entry) -> None:
        """A product as it was written; an earlier row of it dies once the new one is found."""
        row, before = len(self), self.row_of.get(entry.product_id)
        self._ids.append(entry.product_id)
        self._vectors.extend(entry.vector[None])
        self._created.extend(np.array([entry.fields.get("created_at", 0)]))
        self._terms.extend(entry.terms)
        self._weights.extend(entry.weights)
        self._term_ends.extend(np.array([len(self._terms)]))
        for term, weight in zip(entry.terms.tolist(), entry.weights, strict=True):
            self._posted[term].extend(weight[None])
            self._postings[term].extend(np.array([row]))
            self.frequency[term] += 1
        for keyword in held(entry.fields):
            self._keywords[keyword].extend(np.array([row]))
        self._numbers.extend(np.array([price_and_place(entry.fields)]))
        self._signals[0].extend(entry.signals.numbers_N[None])
        self._signals[1].extend(entry.signals.keys_K[None])
        self._section_ends.extend(len(self._section_words) + entry.signals.ends_S[None].astype(np.int64))
        self._section_words.extend(entry.signals.words_W)
        self.row_of[entry.product_id] = row
        self._alive.extend(np.array([True]))  # from here on it is found
        if before is not None:
            self._kill(before)

    def drop(self, product_id: str) -> bool:
        """Take a product out; False where it has no row."""
        row = self.row_of.pop(product_id, None)
        if row is None:
            return False
        self._kill(row)
        return True

    def _kill(self, row: int) -> None:
        self._alive.view()[row] = False
        self.frequency.subtract(self.terms_of(row).tolist())

    def prices(self) -> NDArray[np.float64]:
        """See `FilterColumns`."""
        return self._numbers.view()[:, 0]

    def places(self) -> NDArray[np.float64]:
        """See `FilterColumns`."""
        return self._numbers.view()[:, 1:]

    def holding(self, name: str, keyword: str) -> Rows:
        """See `FilterColumns`."""
        held = self._keywords.get((name, keyword))
        return np.zeros(0, np.int64) if held is None else held.view()

    def alive(self) -> NDArray[np.bool_]:
        """Which rows are alive now, (N,): a copy, of a moment at which none of them was dead for a row yet to come."""
        while True:
            view_N = self._alive.view()
            alive_N: NDArray[np.bool_] = view_N.copy()
            if len(view_N) == len(self):
                return alive_N

    def vectors(self, rows_K: Rows | slice = slice(None)) -> NDArray[np.float32]:
        """The vectors of some rows, (K, d); of a slice uncopied."""
        found_KD: NDArray[np.float32] = self._vectors.view()[rows_K]
        return found_KD

    def created(self) -> NDArray[np.int64]:
        """When each was created, seconds, (N,)."""
        created_N: NDArray[np.int64] = self._created.view()
        return created_N

    def product_ids(self, rows_K: Rows) -> list[str]:
        """The ids of some rows."""
        return [self._ids[row] for row in rows_K.tolist()]

    def signals(self, rows_K: Rows) -> SignalColumns:
        """What ranking reads of some rows."""
        numbers, keys = (column.view()[rows_K] for column in self._signals)
        ends = self._section_ends.view().reshape(-1)  # before the words: they may have grown
        return SignalColumns(numbers, keys, *sections(self._section_words.view(), ends, rows_K))

    def terms_of(self, row: int) -> NDArray[np.uint32]:
        """The terms that a row holds."""
        ends = self._term_ends.view()
        found: NDArray[np.uint32] = self._terms.view()[int(ends[row - 1]) if row else 0 : int(ends[row])]
        return found

    def weights(self, terms_T: NDArray[np.uint32], rows_K: Rows) -> NDArray[np.float32]:
        """The BM25 weight, before the IDF, of each of these terms in each of these rows: (K, T)."""
        ends = self._term_ends.view()
        starts_K = np.where(rows_K > 0, ends[np.maximum(rows_K - 1, 0)], 0) if len(rows_K) else np.zeros(0, np.int64)
        return gathered(self._terms.view(), self._weights.view(), starts_K, ends[rows_K], terms_T)

    def bm25(self, terms_T: NDArray[np.uint32], idf_T: NDArray[np.float64], length: int) -> NDArray[np.float64]:
        """The BM25 score of each of the first `length` rows, dead ones too: (N,)."""
        scores_N = np.zeros(length)
        for term, idf in zip(terms_T.tolist(), idf_T, strict=True):
            if term in self._postings:
                rows = self._postings[term].view()
                rows = rows[: np.searchsorted(rows, length)]
                scores_N[rows] += idf * self._posted[term].view()[: len(rows)]
        return scores_N

    def holders(self, terms: Iterable[int]) -> Rows:
        """The living rows that hold any of these terms, ascending: (L,)."""
        rows = [self._postings[term].view() for term in terms if term in self._postings]
        rows_L = np.unique(np.concatenate(rows)) if rows else np.zeros(0, np.int64)
        rows_L = rows_L[rows_L < len(self)]
        living_L: Rows = rows_L[self.alive()[rows_L]]
        return living_L
