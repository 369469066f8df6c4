"""What is measured: anything that can score and rank the catalogue's rows for the evaluation's queries."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, Self

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from mercato.errors import MercatoError
from mercato.evaluation.baselines.lexical import Lexical
from mercato.evaluation.exact_search import nearest
from mercato.evaluation.metrics.arrays import FloatArray, IntArray, Vectors
from mercato.progress import track
from mercato.runs.encoder import Encoder

PRODUCT_BATCH = 256
QUERY_BATCH = 1024


class Scorer(Protocol):
    """What gives labelled pairs a score. Queries and products are row numbers of the evaluation's tables."""

    def score(self, queries_P: IntArray, products_P: IntArray) -> FloatArray:
        """The score of each (query, product) pair: (P,)."""
        ...


class System(Scorer, Protocol):
    """What can search too: it ranks any products for any query."""

    def grid(self, queries_B: IntArray, products_J: IntArray) -> FloatArray:
        """The score of every query with every product: (B, J)."""
        ...

    def top(self, queries_Q: IntArray, k: int, among_M: IntArray) -> IntArray:
        """The k best of the products in the rows `among_M`: (Q, k), best first, -1 where nothing more is found."""
        ...


@dataclass(frozen=True)
class VectorSystem:
    """Ranks by the inner product of unit vectors: any encoder."""

    queries: Vectors  # (Q, D)
    products: Vectors  # (N, D)

    def score(self, queries_P: IntArray, products_P: IntArray) -> FloatArray:
        """The cosine of each pair: (P,)."""
        pieces = range(0, len(queries_P), 65536)  # bounds the two gathered copies
        cosines = [
            np.einsum("pd,pd->p", self.queries[queries_P[i : i + 65536]], self.products[products_P[i : i + 65536]])
            for i in pieces
        ]
        return np.concatenate(cosines).astype(np.float64) if cosines else np.empty(0)

    def grid(self, queries_B: IntArray, products_J: IntArray) -> FloatArray:
        """The cosine of every query with every product: (B, J)."""
        return (self.queries[queries_B] @ self.products[products_J].T).astype(np.float64)

    def top(self, queries_Q: IntArray, k: int, among_M: IntArray) -> IntArray:
        """The k nearest products by exact search: (Q, k)."""
        found_QK = nearest(self.queries[queries_Q], self.products[among_M], k)
        return np.where(found_QK >= 0, among_M[found_QK], -1) if len(among_M) else found_QK


@dataclass(frozen=True)
class LexicalSystem:
    """Ranks by the words that a query and a product share."""

    index: Lexical
    texts: Sequence[str]

    def score(self, queries_P: IntArray, products_P: IntArray) -> FloatArray:
        """The score of each pair: (P,)."""
        scores_P = np.empty(len(queries_P))
        order_P = np.argsort(queries_P, kind="stable")
        for pairs in np.split(order_P, np.flatnonzero(np.diff(queries_P[order_P])) + 1):
            if len(pairs):
                scores_P[pairs] = self.index.all_scores(self.texts[queries_P[pairs[0]]])[products_P[pairs]]
        return scores_P

    def grid(self, queries_B: IntArray, products_J: IntArray) -> FloatArray:
        """The score of every query with every product: (B, J)."""
        return np.stack([self.index.all_scores(self.texts[query])[products_J] for query in queries_B])

    def top(self, queries_Q: IntArray, k: int, among_M: IntArray) -> IntArray:
        """The k best products that share a word with the query: (Q, k)."""
        return self.index.top([self.texts[query] for query in queries_Q], k, among_M)


@dataclass(frozen=True)
class RandomSystem:
    """Scores a pair by a hash of its two row numbers: uniform in [0, 1), the same in every part."""

    products: int
    seed: int

    def score(self, queries_P: IntArray, products_P: IntArray) -> FloatArray:
        """A random score for each pair: (P,)."""
        with np.errstate(over="ignore"):
            seeded = _splitmix64(queries_P.astype(np.uint64) + np.uint64(self.seed) * np.uint64(0x9E3779B97F4A7C15))
            return _splitmix64(seeded + products_P.astype(np.uint64)) / 2.0**64

    def grid(self, queries_B: IntArray, products_J: IntArray) -> FloatArray:
        """A random score for every query with every product: (B, J)."""
        return self.score(queries_B[:, None], products_J[None, :])

    def top(self, queries_Q: IntArray, k: int, among_M: IntArray) -> IntArray:
        """The k products of the highest random scores: (Q, k)."""
        found_QK = np.full((len(queries_Q), k), -1, dtype=np.int64)
        for position, query in enumerate(queries_Q):
            scores_M = self.score(np.full(len(among_M), query), among_M)
            best = np.argpartition(-scores_M, k)[:k] if k < len(among_M) else np.arange(len(among_M))
            found_QK[position, : len(best)] = among_M[best[np.argsort(-scores_M[best])]]
        return found_QK


@dataclass(frozen=True)
class PairScores:
    """A score for some pairs, 0 for all others."""

    keys_M: IntArray  # query · N + product, ascending
    scores_M: FloatArray
    catalogue: int  # N

    @classmethod
    def of(cls, queries_P: IntArray, products_P: IntArray, scores_P: FloatArray, catalogue: int) -> Self:
        """Where a pair has several scores it gets the largest."""
        keys_P = queries_P * catalogue + products_P
        order_P = np.lexsort((-scores_P, keys_P))
        keys_M, first_M = np.unique(keys_P[order_P], return_index=True)
        return cls(keys_M, scores_P[order_P][first_M], catalogue)

    def score(self, queries_P: IntArray, products_P: IntArray) -> FloatArray:
        """The score of each pair: (P,)."""
        keys_P = queries_P * self.catalogue + products_P
        place_P = np.minimum(np.searchsorted(self.keys_M, keys_P), len(self.keys_M) - 1)
        return np.where(self.keys_M[place_P] == keys_P, self.scores_M[place_P], 0.0)


@dataclass(frozen=True)
class ProductScores:
    """A score for each product, whatever the query: (N,)."""

    scores_N: FloatArray

    def score(self, queries_P: IntArray, products_P: IntArray) -> FloatArray:
        """The score of each pair's product: (P,)."""
        return self.scores_N[products_P]


def encode(
    encoder: Encoder,
    name: str,
    queries: pl.DataFrame,
    products: pa.Table,
    wanted_M: IntArray,
    *,
    as_of: datetime | None = None,
) -> VectorSystem:
    """Encode every query (country by country) and every wanted product once.

    Args:
        encoder: the model.
        name: what the progress bars and errors call it.
        queries: columns `query` and `country`.
        products: rows of the products schema.
        wanted_M: those to encode; the others' vectors are zeros.
        as_of: the moment at which listings have their age; None: the clock's.

    Raises:
        MercatoError: the encoder returned a vector that is not finite, naming the query or the product.
    """
    texts, countries = queries["query"].to_list(), queries["country"].to_list()
    queries_QD = np.empty((len(texts), encoder.dimension), dtype=np.float32)
    rows_of: dict[str | None, list[int]] = {}
    for row, country in enumerate(countries):
        rows_of.setdefault(country, []).append(row)
    batches = [(c, rows[i : i + QUERY_BATCH]) for c, rows in rows_of.items() for i in range(0, len(rows), QUERY_BATCH)]
    for country, rows in track(batches, f"query vectors ({name})"):
        queries_QD[rows] = encoder.encode_queries([texts[row] for row in rows], country)
    _check(queries_QD, name, "query", texts)

    products_ND = np.zeros((products.num_rows, encoder.dimension), dtype=np.float32)
    for start in track(range(0, len(wanted_M), PRODUCT_BATCH), f"product vectors ({name})"):
        some = wanted_M[start : start + PRODUCT_BATCH]
        products_ND[some] = encoder.encode_products(products.take(some), as_of=as_of)
    _check(products_ND, name, "product", products.column("product_id").to_pylist())
    return VectorSystem(queries_QD, products_ND)


def _check(vectors: Vectors, name: str, kind: str, labels: list[str]) -> None:
    broken = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(broken):
        raise MercatoError(f"{name}: the vector of {kind} {labels[broken[0]]!r} is not finite ({len(broken)} such)")


def _splitmix64(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of SplitMix64 (Steele, Lea & Flood, OOPSLA 2014)."""
    with np.errstate(over="ignore"):
        values = values + np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))
