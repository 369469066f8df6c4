"""One Qdrant Edge shard on disk: how it is made, what a product is in it, and how its graph is built.

A point's id is its row in the columns. BM25 is a sparse vector: term weights are stored, and a query brings the IDF of
its terms. That prunes, where a scored text index scores every product with a query token again (up to 3 ms at 200k).
The words are those of `mercato.data.words`: the engine only counts and hashes what stands between spaces.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qdrant
from numpy.typing import NDArray

from mercato.data.words import words
from mercato.disk import bytes_in, check_room
from mercato.retrieval.engines.qdrant_edge.elsewhere import Elsewhere, end_with
from mercato.retrieval.engines.qdrant_edge.log import Entry
from mercato.retrieval.engines.qdrant_edge.payload import INDEXES, payload
from mercato.retrieval.protocol import IndexRecord

ENGINE = f"qdrant-edge {version('qdrant-edge-py')}, columns 5, words 2, log 2"  # an index of any other is refused
DENSE, WORDS = "", "bm25"  # the names of the two vectors of a point

GRAPH_FROM_KB = 10_000  # less than this much of vectors (20,000 × 128-d) has no graph: scanning it is as fast

MAPPED = 200_000_000  # bytes that the engine allocates at once: a page of each of its storages, and its log's

AT_ONCE = 2_000  # points that the engine optimises in a moment


def create(path: Path, dimension: int) -> qdrant.EdgeShard:
    """Make an empty shard, its payload indexes first: only then does the graph link along them, without which it finds
    less (recall@10 of 200,000 by vector alone .988 where it is .998 with them).
    """
    check_room(path.parent, MAPPED)
    config = qdrant.EdgeConfig(
        vectors={DENSE: qdrant.EdgeVectorParams(size=dimension, distance=qdrant.Distance.Cosine)},
        sparse_vectors={WORDS: qdrant.EdgeSparseVectorParams()},
        hnsw_config=qdrant.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=GRAPH_FROM_KB),
        optimizers=qdrant.EdgeOptimizersConfig(
            default_segment_number=1, max_segment_size=2**31, indexing_threshold=GRAPH_FROM_KB
        ),
        payload_memory=qdrant.Memory.Cached,
        wal_enabled=True,
    )
    shard = qdrant.EdgeShard.create(str(path), config)
    for name, parameters in INDEXES.items():
        shard.update(qdrant.UpdateOperation.create_field_index(name, parameters))
    return shard


def optimise(path: Path) -> None:
    """Build the graph of a closed shard, here, which copies it. Raises a FullError where there is no room for that."""
    check_room(path, bytes_in(path) + MAPPED)
    shard = qdrant.EdgeShard.load(str(path))
    try:
        shard.optimize()
        shard.flush()
    finally:
        shard.close()


def build_graph(path: Path, points: int) -> None:
    """Optimise a closed shard of so many points; in a process of its own where that would hold the GIL for long.

    That process ends with this one. Raises a MercatoError where it failed.
    """
    if points <= AT_ONCE:
        optimise(path)
        return
    Elsewhere("the index's graph could not be built").run(__name__, str(path))


def mean_tokens(texts: Iterable[str]) -> float:
    """Return the mean number of tokens of `texts`, at least 1.

    With b = 0 and a huge k the BM25 weight of a token is its count in the text.
    """
    counter = _bm25(k=1e9, b=0.0)
    counts = [sum(counter.embed_document(_spaced(text)).values) for text in texts]
    return max(1.0, sum(counts) / max(1, len(counts)))


class Points:
    """Turns records into log entries and points; `mean_tokens` is BM25's average document length."""

    def __init__(self, dimension: int, mean_tokens: float) -> None:
        self.dimension = dimension
        self._bm25 = _bm25(avg_len=mean_tokens)

    def entry(self, record: IndexRecord) -> Entry:
        """What is kept of a record. Raises a MercatoError where its vector has another dimension."""
        record.check_dimension(self.dimension)
        counted = self._bm25.embed_document(_spaced(record.text))
        return Entry(
            record.product_id,
            record.vector,
            np.array(counted.indices, np.uint32),
            np.array(counted.values, np.float32),
            payload(record),
            record.signals,
        )

    def terms(self, words: Sequence[str]) -> NDArray[np.uint32]:
        """The numbers under which these words are known, in their order, (T,)."""
        return np.array([self._bm25.embed_query(word).indices[0] for word in words], np.uint32)


def point(row: int, entry: Entry) -> qdrant.Point:
    """The point of a product."""
    words = qdrant.SparseVector(entry.terms.tolist(), entry.weights.tolist())
    return qdrant.Point(id=row, vector={DENSE: entry.vector.tolist(), WORDS: words}, payload=dict(entry.fields))


def bm25_query(terms_T: NDArray[np.uint32], idf_T: NDArray[np.float64]) -> qdrant.Query:
    """The BM25 query of these terms."""
    return qdrant.Query.Nearest(qdrant.SparseVector(terms_T.tolist(), idf_T.tolist()), using=WORDS)


def _spaced(text: str) -> str:
    return " ".join(words(text))


def _bm25(**parameters: Any) -> qdrant.Bm25:
    return qdrant.Bm25(
        qdrant.Bm25Config(
            tokenizer=qdrant.TokenizerType.Whitespace,
            lowercase=False,
            stemmer=qdrant.DisabledStemmer(),
            stopwords=qdrant.StopwordsSet(),
            **parameters,
        )
    )


if __name__ == "__main__":
    end_with(int(sys.argv[2]))
    optimise(Path(sys.argv[1]))
