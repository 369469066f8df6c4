"""Exact nearest neighbours by FAISS: the ranking that KNN metrics are of."""

from __future__ import annotations

import faiss
import numpy as np

from mercato.evaluation.metrics.arrays import IntArray, Vectors


def nearest(queries_QD: Vectors, products_ND: Vectors, k: int) -> IntArray:
    """The k products of highest inner product for each query, by exact FAISS search.

    The products are shuffled first (fixed seed), so that equal vectors come back in an order that says nothing about
    the table's: a constant encoder retrieves k products at random.

    Args:
        queries_QD: float32 (Q, D).
        products_ND: float32 (N, D).
        k: how many; a smaller catalogue leaves -1.

    Returns:
        int (Q, k), rows of `products_ND`, best first.
    """
    order_N = np.random.default_rng(0).permutation(len(products_ND))
    index = faiss.IndexFlatIP(products_ND.shape[1])
    index.add(np.ascontiguousarray(products_ND[order_N]))
    _, top_QK = index.search(np.ascontiguousarray(queries_QD), k)
    return np.where(top_QK >= 0, order_N[top_QK], -1) if len(order_N) else np.full((len(queries_QD), k), -1)
