"""What lexical baselines share: the words of a product's fields in, the products that share words with a query out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.fields import SEARCHED

FIELDS = SEARCHED


class Lexical(ABC):
    """Scores a catalogue's products by the words that they share with a query.

    Args:
        products: rows with `product_id`.
    """

    def __init__(self, products: pa.Table) -> None:
        self.row_of = {product: row for row, product in enumerate(products.column("product_id").to_pylist())}
        # Products are ranked in a shuffled order, so that a tie at the cut of `top` is not broken by the table's.
        self._order_N = np.random.default_rng(0).permutation(products.num_rows)

    @abstractmethod
    def all_scores(self, query: str) -> FloatArray:
        """Score every product, in the order of the table: float (N,), 0 where no word is shared."""

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
