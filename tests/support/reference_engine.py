"""A second engine: brute force in this process's memory, under memory://NAME (memory://NAME?text=no scores no text).

It shares with the embedded one only what every engine inherits. Its BM25 is the textbook's: k1 = 1.2, b = .75.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any
from weakref import WeakSet

import numpy as np

from mercato.data.words import words
from mercato.errors import MercatoError
from mercato.retrieval.hybrid import Found, HybridIndex
from mercato.retrieval.protocol import Capabilities, FrozenIndex, Generations, IndexRecord
from mercato.retrieval.samples import satisfies
from mercato.retrieval.signals import KEYS, NUMBERS, SECTIONS, SignalColumns

MODULE = __name__  # what `mercato.retrieval.open.ENGINES["memory"]` is set to
_GENERATIONS: dict[str, list[_Generation]] = {}  # what is served, and what stands by
_BUILT: dict[str, WeakSet[_Generation]] = {}  # and what only open indexes hold


@dataclass(eq=False)
class _Generation:
    dimension: int
    fingerprint: str
    mean_tokens: float
    records: dict[str, IndexRecord]
    lock: Lock = field(default_factory=Lock)


def open_index(url: str, read_only: bool = False, fingerprint: str | None = None) -> MemoryIndex:
    generations(url)
    wanted = _GENERATIONS[url][0]
    if fingerprint is not None:
        built = [each for each in _BUILT.get(url, ()) if each.fingerprint == fingerprint]
        if not built:
            raise MercatoError(f"{url} holds no generation {fingerprint!r}")
        wanted = next((each for each in _GENERATIONS[url] if each in built), built[0])
    return MemoryIndex(wanted, text="text=no" not in url)


def build_index(
    url: str, records: Iterable[IndexRecord], dimension: int, fingerprint: str, standby: bool
) -> dict[str, Any]:
    if standby:
        generations(url)
    before = _GENERATIONS[url][:1] if standby else []
    kept = {}
    counts = []
    for record in records:
        record.check_dimension(dimension)
        kept[record.product_id] = record
        counts.append(len(words(record.text)))
    first = list(islice(counts, 256))
    mean = max(1.0, sum(first) / max(1, len(first)))
    _GENERATIONS[url] = [*before, _Generation(dimension, fingerprint, mean, kept)]
    _BUILT.setdefault(url, WeakSet()).add(_GENERATIONS[url][-1])
    description = {"engine": "memory", "dimension": dimension, "count": len(kept)}
    return description | {"fingerprint": fingerprint, "mean_tokens": mean}


def generations(url: str) -> Generations:
    if url not in _GENERATIONS:
        raise MercatoError(f"{url} holds no index")
    return Generations(*(generation.fingerprint for generation in _GENERATIONS[url]))


def swap_index(url: str, fingerprint: str | None) -> None:
    named = generations(url)
    if fingerprint not in (None, named.served, named.standby):
        raise MercatoError(f"{url} holds no generation {fingerprint!r} any more")
    if fingerprint == named.served:
        return
    if named.standby is None:
        raise MercatoError(f"{url} has no standby")
    _GENERATIONS[url].reverse()


def drop_standby(url: str) -> None:
    generations(url)
    del _GENERATIONS[url][1:]


def examine_index(url: str) -> list[str]:
    return []


def freeze_index(url: str) -> AbstractContextManager[FrozenIndex]:
    raise MercatoError(f"{url} is in memory: there is nothing to copy")


class MemoryIndex(HybridIndex):
    def __init__(self, generation: _Generation, text: bool) -> None:
        self._generation: _Generation | None = generation
        self._capabilities = Capabilities(flush=False, compaction=False, one_owner=False, text=text)
        self.dimension, self.fingerprint = generation.dimension, generation.fingerprint

    dimension = 0  # set above; here for the abstract base

    @property
    def capabilities(self) -> Capabilities:
        return self._capabilities

    def __len__(self) -> int:
        return len(self._open().records)

    @contextmanager
    def snapshot(self) -> Iterator[MemorySnapshot]:
        generation = self._open()
        with generation.lock:
            records = dict(generation.records)
        yield MemorySnapshot(records, generation.mean_tokens)

    def count(self, filters) -> int:
        with self.snapshot() as snapshot:
            return len(snapshot.within(filters))

    def upsert(self, records: Iterable[IndexRecord]) -> None:
        new = list(records)
        for record in new:
            record.check_dimension(self.dimension)
        with self._open().lock:
            self._open().records.update({record.product_id: record for record in new})

    def delete(self, product_ids: Iterable[str]) -> None:
        with self._open().lock:
            for product_id in product_ids:
                self._open().records.pop(product_id, None)

    def flush(self) -> None:
        """Nothing to do."""

    def compact(self) -> None:
        """Nothing to do."""

    def close(self) -> None:
        self._generation = None

    def _open(self) -> _Generation:
        if self._generation is None:
            raise MercatoError("the index is closed")
        return self._generation


class MemorySnapshot:
    """Rows are places among the records in the order of their ids."""

    def __init__(self, records: dict[str, IndexRecord], mean_tokens: float) -> None:
        self._records, self._mean = [records[key] for key in sorted(records)], mean_tokens
        self._tokens = [Counter(words(record.text)) for record in self._records]
        self._holding = Counter(word for tokens in self._tokens for word in tokens)

    @property
    def size(self) -> int:
        return len(self._records)

    def within(self, filters) -> np.ndarray:
        return _rows(row for row, record in enumerate(self._records) if satisfies(record, filters))

    def nearest(self, vector, filters, limit, ef_search):
        rows = self.within(filters)
        return _best(rows, self.cosines(vector, rows), limit)

    def matching(self, words, filters, limit, among_K=None):
        rows = self.within(filters)
        rows = rows if among_K is None else np.intersect1d(rows, among_K)
        scores = self.bm25s(words, rows)
        return _best(rows[scores > 0], scores[scores > 0], limit)

    def newest(self, filters, limit):
        rows = self.within(filters)
        created = [self._records[row].created_at for row in rows]
        return _best(rows, np.array([int(at.timestamp()) if at else 0 for at in created], float), limit)

    def alive(self, rows_K):
        return np.ones(len(rows_K), bool)

    def cosines(self, vector, rows_K):
        return np.array([self._records[row].vector @ vector for row in rows_K], float)

    def bm25s(self, words, rows_K):
        return np.array([sum(self._bm25(word, row) for word in words) for row in rows_K], float)

    def frequencies(self, words):
        return np.array([self._holding[word] for word in words], np.int64)

    def holders(self, word, limit):
        return _rows(islice((row for row, tokens in enumerate(self._tokens) if word in tokens), limit))

    def product_ids(self, rows_K):
        return [self._records[row].product_id for row in rows_K]

    def signals(self, rows_K):
        kept = [self._records[row].signals for row in rows_K]
        ends_KS = np.array([signals.ends_S for signals in kept], np.int64).reshape(-1, len(SECTIONS))
        return SignalColumns(
            np.array([signals.numbers_N for signals in kept], np.float32).reshape(-1, len(NUMBERS)),
            np.array([signals.keys_K for signals in kept], np.uint64).reshape(-1, len(KEYS)),
            np.concatenate([np.zeros(0, np.uint32), *(signals.words_W for signals in kept)]),
            np.diff(ends_KS, axis=1, prepend=0),
        )

    def rows(self, product_ids):
        row_of = {record.product_id: row for row, record in enumerate(self._records)}
        return np.array([row_of.get(product_id, -1) for product_id in product_ids], np.int64)

    def _bm25(self, word: str, row: int) -> float:
        tokens = self._tokens[row]
        if word not in tokens:
            return 0.0
        holding = self._holding[word]
        norm = 1.2 * (0.25 + 0.75 * tokens.total() / self._mean)
        return math.log(1 + (self.size - holding + 0.5) / (holding + 0.5)) * tokens[word] * 2.2 / (tokens[word] + norm)


def _rows(rows: Iterable[int]) -> np.ndarray:
    return np.array(list(rows), np.int64)


def _best(rows: np.ndarray, scores: np.ndarray, limit: int) -> Found:
    order = np.lexsort([rows, -scores])[:limit]
    return Found(rows[order], scores[order])
