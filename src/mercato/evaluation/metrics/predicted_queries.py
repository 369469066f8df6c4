r"""Precision@K and recall@K of the queries that are predicted for a product.

.. math:: P@K = |\{predicted_{1…K}\} \cap T| / K, \quad R@K = |\{predicted_{1…K}\} \cap T| / |T|

where T are the queries with which the product was engaged. A product that was found with fewer than K queries cannot
reach a precision of 1: compare systems, not markets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from collections.abc import Set as AbstractSet

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.metric import PredictedQueries

DEPTH = 10  # ranks


def predicted_queries(predicted: Sequence[Sequence[str]], truths: Sequence[AbstractSet[str]]) -> PredictedQueries:
    """Compare each product's predictions with the truth.

    Args:
        predicted: for each product distinct queries, best first; a missing place counts as a wrong one.
        truths: for each product the queries with which it was engaged, at least one.
    """
    hits_MK = np.zeros((len(truths), DEPTH))
    for row, (queries, truth) in enumerate(zip(predicted, truths, strict=True)):
        hits_MK[row, : len(queries)] = [query in truth for query in queries[:DEPTH]]
    return PredictedQueries(hits_MK=hits_MK, sizes_M=np.array([len(truth) for truth in truths], dtype=np.float64))


def precision_at(k: int) -> Callable[[PredictedQueries], FloatArray]:
    """Precision@k of each product: float (M,) in [0, 1]."""

    def precision(given: PredictedQueries) -> FloatArray:
        found: FloatArray = given.hits_MK[:, :k].sum(axis=1) / k
        return found

    return precision


def recall_at(k: int) -> Callable[[PredictedQueries], FloatArray]:
    """Recall@k of each product: float (M,) in [0, 1]."""

    def recall(given: PredictedQueries) -> FloatArray:
        found: FloatArray = given.hits_MK[:, :k].sum(axis=1) / given.sizes_M
        return found

    return recall
