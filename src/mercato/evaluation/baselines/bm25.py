"""BM25, the lexical baseline that a learned search has to beat."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import bm25s
import numpy as np
import pyarrow as pa

from mercato.data.words import words
from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.fields import SEARCHED

FIELDS = SEARCHED
K1, B = 1.2, 0.75  # Lucene's defaults


class BM25:
    """BM25 in Lucene's form (k1 = 1.2, b = .75) over all of a product's text (`FIELDS`) as one.

    Args:
        products: rows with `product_id` and any of the columns of `FIELDS`.
    """

    def __init__(self, products: pa.Table) -> None:
        self.row_of = {product: row for row, product in enumerate(products.column("product_id").to_pylist())}
        # Indexed in a shuffled order, so that a tie at the cut of `top` is not broken by the order of the table.
        self._order_N = np.random.default_rng(0).permutation(products.num_rows)
        self._place_N = np.argsort(self._order_N)
        texts = [words(text) for text in product_texts(products)]
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene")
        if any(texts):
            self._index.index([texts[row] for row in self._order_N], show_progress=False)

    def all_scores(self, query: str) -> FloatArray:
        """Score every product, in the order of the table: float (N,), 0 where no word is shared."""
        tokens = self._index.get_tokens_ids(words(query)) if hasattr(self._index, "scores") else []
        if not tokens:
            return np.zeros(len(self._order_N))
        return np.asarray(self._index.get_scores(tokens), dtype=np.float64)[self._place_N]

    def scores(self, query: str, product_ids: Sequence[str]) -> FloatArray:
        """Score some products for one query: float (n,).

        Raises:
            KeyError: a product is not in the table.
        """
        return self.all_scores(query)[[self.row_of[product] for product in product_ids]]

    def top(self, queries: Sequence[str], k: int, among_M: IntArray | None = None) -> IntArray:
        """The rows of the k best products of each query, best first: int (Q, k), -1 where no more share a word.

        `among_M` are the rows that may be found; all where None.
        """
        found_QK = np.full((len(queries), k), -1, dtype=np.int64)
        allowed_N = np.ones(len(self._order_N), bool) if among_M is None else np.isin(self._order_N, among_M)
        for position, query in enumerate(queries):
            scores_N = self.all_scores(query)[self._order_N] * allowed_N
            some = np.argpartition(-scores_N, k)[:k] if k < len(scores_N) else np.arange(len(scores_N))
            best = some[np.argsort(-scores_N[some], kind="stable")]
            best = best[scores_N[best] > 0]
            found_QK[position, : len(best)] = self._order_N[best]
        return found_QK


def product_texts(products: pa.Table) -> list[str]:
    """Join each product's fields of `FIELDS` into one text."""
    columns = [products.column(field).to_pylist() for field in FIELDS if field in products.column_names]
    return [" ".join(_text(value) for value in row) for row in zip(*columns, strict=True)] or [""] * products.num_rows


def _text(value: Any) -> str:
    if isinstance(value, list):  # a map arrives as (key, value) pairs
        return " ".join(str(entry) for _, entry in value)
    return value or ""
