"""One Qdrant Edge shard on disk: how it is made, what a product is in it, and how its graph is built.

BM25 is a sparse vector: term weights are stored, the engine applies the IDF of the whole shard. That prunes, and scores
a handful of ids in .05 ms, where a scored text index scores every product with a query token again (up to 3 ms at
200k). The words are those of `mercato.data.words`: the engine only counts and hashes what stands between spaces.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import qdrant_edge as qdrant

from mercato.data.words import words
from mercato.errors import MercatoError
from mercato.retrieval.engines.qdrant_edge.payload import INDEXES, payload
from mercato.retrieval.protocol import IndexRecord

DENSE, WORDS = "", "bm25"  # the names of the two vectors of a point

GRAPH_FROM_KB = 10_000  # less than this much of vectors (20,000 × 128-d) has no graph: scanning it is as fast

_NAMESPACE = UUID("6f4a2b52-8d57-5c0e-9a63-3f1d1c6f6a11")
_BUILD_GRAPH = """
import sys, qdrant_edge
shard = qdrant_edge.EdgeShard.load(sys.argv[1])
shard.optimize()
shard.flush()
shard.close()
"""


def create(path: Path, dimension: int) -> qdrant.EdgeShard:
    """Make an empty shard, its payload indexes first: only then does the graph link along them."""
    config = qdrant.EdgeConfig(
        vectors={DENSE: qdrant.EdgeVectorParams(size=dimension, distance=qdrant.Distance.Cosine)},
        sparse_vectors={WORDS: qdrant.EdgeSparseVectorParams(modifier=qdrant.Modifier.Idf)},
        hnsw_config=qdrant.HnswIndexConfig(m=16, ef_construct=128, full_scan_threshold=GRAPH_FROM_KB),
        optimizers=qdrant.EdgeOptimizersConfig(
            default_segment_number=1, max_segment_size=2**31, indexing_threshold=GRAPH_FROM_KB
        ),
        payload_memory=qdrant.Memory.Cached,
        wal_enabled=True,  # an update survives kill -9 before any flush, and a second owner is refused
    )
    shard = qdrant.EdgeShard.create(str(path), config)
    for name, parameters in INDEXES.items():
        shard.update(qdrant.UpdateOperation.create_field_index(name, parameters))
    return shard


def build_graph(path: Path) -> None:
    """Optimise a closed shard, in a process of its own: the engine holds the GIL for as long as that takes."""
    done = subprocess.run([sys.executable, "-c", _BUILD_GRAPH, str(path)], capture_output=True, text=True, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise MercatoError(f"the index's graph could not be built: {last}")


def point_id(product_id: str) -> str:
    """Return the UUID under which a product stands, always the same one."""
    return str(uuid5(_NAMESPACE, product_id))


def mean_tokens(texts: Iterable[str]) -> float:
    """Return the mean number of tokens of `texts`, at least 1.

    With b = 0 and a huge k the BM25 weight of a token is its count in the text.
    """
    counter = _bm25(k=1e9, b=0.0)
    counts = [sum(counter.embed_document(_spaced(text)).values) for text in texts]
    return max(1.0, sum(counts) / max(1, len(counts)))


class Points:
    """Turns records into points and texts into queries; `mean_tokens` is BM25's average document length."""

    def __init__(self, dimension: int, mean_tokens: float) -> None:
        self.dimension = dimension
        self._bm25 = _bm25(avg_len=mean_tokens)

    def point(self, record: IndexRecord) -> qdrant.Point:
        """Raise a MercatoError where the record's vector has another dimension."""
        record.check_dimension(self.dimension)
        vectors = {DENSE: record.vector.tolist(), WORDS: self._bm25.embed_document(_spaced(record.text))}
        return qdrant.Point(id=point_id(record.product_id), vector=vectors, payload=payload(record))

    def numbers(self, words: Sequence[str]) -> list[int]:
        """Return the numbers under which the shard knows these words."""
        return list(self._bm25.embed_query(" ".join(words)).indices)


def bm25_query(numbers: list[int]) -> qdrant.Query:
    """Return the BM25 query of these words' numbers."""
    return qdrant.Query.Nearest(qdrant.SparseVector(numbers, [1.0] * len(numbers)), using=WORDS)


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
