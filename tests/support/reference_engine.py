"""A second engine: brute force in this process's memory, under memory://NAME (memory://NAME?text=no scores no text).

It shares with the embedded one only what every engine inherits. Its BM25 is the textbook's: k1 = 1.2, b = .75.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from threading import Lock
from typing import Any

import numpy as np

from mercato.data.words import words
from mercato.errors import MercatoError
from mercato.retrieval.hybrid import HybridIndex, Scored
from mercato.retrieval.protocol import Capabilities, IndexRecord
from mercato.retrieval.samples import satisfies

MODULE = __name__  # what `mercato.retrieval.open.ENGINES["memory"]` is set to
_GENERATIONS: dict[str, _Generation] = {}


@dataclass
class _Generation:
    dimension: int
    fingerprint: str
    mean_tokens: float
    records: dict[str, IndexRecord]
    lock: Lock = field(default_factory=Lock)


def open_index(url: str) -> MemoryIndex:
    if url not in _GENERATIONS:
        raise MercatoError(f"{url} holds no index")
    return MemoryIndex(_GENERATIONS[url], text="text=no" not in url)


def build_index(url: str, records: Iterable[IndexRecord], dimension: int, fingerprint: str) -> dict[str, Any]:
    kept = {}
    counts = []
    for record in records:
        record.check_dimension(dimension)
        kept[record.product_id] = record
        counts.append(len(words(record.text)))
    first = list(islice(counts, 256))
    mean = max(1.0, sum(first) / max(1, len(first)))
    _GENERATIONS[url] = _Generation(dimension, fingerprint, mean, kept)
    description = {"engine": "memory", "dimension": dimension, "count": len(kept)}
    return description | {"fingerprint": fingerprint, "mean_tokens": mean}


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
    """Keys are product ids."""

    def __init__(self, records: dict[str, IndexRecord], mean_tokens: float) -> None:
        self._records, self._mean = records, mean_tokens
        self._tokens = {key: Counter(words(record.text)) for key, record in records.items()}
        self._holding = Counter(word for tokens in self._tokens.values() for word in tokens)

    @property
    def size(self) -> int:
        return len(self._records)

    def within(self, filters) -> set[str]:
        return {key for key, record in self._records.items() if satisfies(record, filters)}

    def nearest(self, vector, filters, limit, ef_search):
        return _best(self.cosines(vector, self.within(filters)), limit)

    def matching(self, words, filters, limit, among=None):
        within = self.within(filters)
        return _best(self.bm25s(words, within if among is None else within & among), limit)

    def newest(self, filters, limit):
        created = {key: self._records[key].created_at for key in self.within(filters)}
        return _best({key: (at and float(int(at.timestamp()))) or 0.0 for key, at in created.items()}, limit)

    def cosines(self, vector, keys):
        ordered = [key for key in keys if key in self._records]
        if not ordered:
            return {}
        vectors = np.stack([self._records[key].vector for key in ordered])
        return dict(zip(ordered, (vectors @ vector).tolist(), strict=True))

    def bm25s(self, words, keys):
        scores = {key: sum(self._bm25(word, key) for word in words) for key in keys if key in self._records}
        return {key: score for key, score in scores.items() if score > 0}

    def holders(self, word, limit):
        return set(islice((key for key, tokens in self._tokens.items() if word in tokens), limit))

    def _bm25(self, word: str, key: str) -> float:
        tokens = self._tokens[key]
        if word not in tokens:
            return 0.0
        holding = self._holding[word]
        norm = 1.2 * (0.25 + 0.75 * tokens.total() / self._mean)
        return math.log(1 + (self.size - holding + 0.5) / (holding + 0.5)) * tokens[word] * 2.2 / (tokens[word] + norm)


def _best(scores: dict[str, float], limit: int) -> list[Scored]:
    ranked = sorted(scores.items(), key=lambda item: (-item[1], item[0]))
    return [Scored(key, key, score) for key, score in ranked[:limit]]
