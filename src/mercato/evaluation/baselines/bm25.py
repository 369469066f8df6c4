"""BM25, the lexical baseline that a learned search has to beat."""

from __future__ import annotations

import bm25s
import numpy as np
import pyarrow as pa

from mercato.data.words import words
from mercato.evaluation.baselines.lexical import Lexical
from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.texts import product_texts

K1, B = 1.2, 0.75  # Lucene's defaults


class BM25(Lexical):
    """BM25 in Lucene's form (k1 = 1.2, b = .75) over all of a product's text (`FIELDS`) as one.

    Args:
        products: rows with `product_id` and any of the columns of `FIELDS`.
    """

    def __init__(self, products: pa.Table) -> None:
        super().__init__(products)
        texts = [words(text) for text in product_texts(products)]
        self._index = bm25s.BM25(k1=K1, b=B, method="lucene")
        if any(texts):
            self._index.index(texts, show_progress=False)

    def all_scores(self, query: str) -> FloatArray:
        """Score every product, in the order of the table: float (N,), 0 where no word is shared."""
        tokens = self._index.get_tokens_ids(words(query)) if hasattr(self._index, "scores") else []
        if not tokens:
            return np.zeros(len(self._order_N))
        return np.asarray(self._index.get_scores(tokens), dtype=np.float64)
