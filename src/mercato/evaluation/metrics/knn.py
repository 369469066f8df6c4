"""KNN recall@K and precision@K: of what people will engage with, how much comes back from the whole catalogue."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray, ratio
from mercato.evaluation.metrics.metric import QueryMean, RankedCatalogue, Statistic

# --- kernel


def hits(top_QK: IntArray, groups_P: IntArray, products_P: IntArray, catalogue: int) -> BoolArray:
    """Whether each retrieved product (-1: none) is one of the query's own: bool (Q, K)."""
    wanted = np.unique(groups_P * catalogue + products_P)
    keys_QK = np.arange(len(top_QK))[:, None] * catalogue + top_QK
    return np.isin(keys_QK, wanted) & (top_QK >= 0)


# --- public


def recall_and_precision(
    top_QK: IntArray, groups_P: IntArray, products_P: IntArray, catalogue: int, k: int
) -> tuple[FloatArray, FloatArray]:
    r"""Recall@K and precision@K of each query (Que2Search §3.4).

    .. math:: R@K = \frac{|top_K(q) \cap engaged(q)|}{|engaged(q)|} \qquad P@K = \frac{|top_K(q) \cap engaged(q)|}{K}

    Each query counts once in the mean, however many products it engaged: a head query has no more say than a rare one.

    Args:
        top_QK: int (Q, K' ≥ K), the rows of the retrieved products, best first, -1 where a ranking found no more.
        groups_P: int (P,), the query (0 … Q - 1) of each engaged pair.
        products_P: int (P,), the row of its product.
        catalogue: how many products there are.
        k: the ranks looked at.

    Returns:
        recall (Q,) and precision (Q,); recall is NaN for a query without an engaged pair.
    """
    found_Q = hits(top_QK[:, :k], groups_P, products_P, catalogue).sum(axis=1)
    distinct = np.unique(groups_P * catalogue + products_P) // catalogue
    return ratio(found_Q, np.bincount(distinct, minlength=len(top_QK))), found_Q / k


def mean_knn_recall(k: int) -> Callable[[RankedCatalogue], Statistic]:
    """The mean recall@k over queries."""
    return lambda ranked: QueryMean(_recall_and_precision(ranked, k)[0])


def mean_knn_precision(k: int) -> Callable[[RankedCatalogue], Statistic]:
    """The mean precision@k over queries."""
    return lambda ranked: QueryMean(_recall_and_precision(ranked, k)[1])


def _recall_and_precision(ranked: RankedCatalogue, k: int) -> tuple[FloatArray, FloatArray]:
    return recall_and_precision(ranked.top_QK, ranked.groups_P, ranked.products_P, ranked.catalogue, k)
