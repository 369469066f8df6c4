"""KNN recall@K and precision@K: of what people will engage with, how much comes back from the whole catalogue."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray, ratio
from mercato.evaluation.metrics.metric import QueryMean, RetrievedPairs, Statistic

BLOCK = 4096  # pairs compared with all that their queries found, at once

# --- kernels


def hits(top_QK: IntArray, groups_P: IntArray, products_P: IntArray, catalogue: int) -> BoolArray:
    """Whether each retrieved product (-1: none) is one of the query's own: bool (Q, K)."""
    wanted = np.unique(groups_P * catalogue + products_P)
    keys_QK = np.arange(len(top_QK))[:, None] * catalogue + top_QK
    return np.isin(keys_QK, wanted) & (top_QK >= 0)


def ranks(top_QK: IntArray, groups_P: IntArray, products_P: IntArray) -> IntArray:
    """Where each pair's product stands among what its query found, 0 the first, -1 where it does not: int (P,)."""
    ranks_P = np.full(len(groups_P), -1, dtype=np.int64)
    for start in range(0, len(groups_P), BLOCK):
        some = slice(start, start + BLOCK)
        same_PK = top_QK[groups_P[some]] == products_P[some, None]
        ranks_P[some] = np.where(same_PK.any(axis=1), same_PK.argmax(axis=1), -1)
    return ranks_P


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
    groups_P, products_P = np.divmod(np.unique(groups_P * catalogue + products_P), catalogue)
    found_Q = np.bincount(groups_P[ranks(top_QK[:, :k], groups_P, products_P) >= 0], minlength=len(top_QK))
    return ratio(found_Q, np.bincount(groups_P, minlength=len(top_QK))), found_Q / k


def mean_knn_recall(k: int) -> Callable[[RetrievedPairs], Statistic]:
    """The mean recall@k over queries; undefined where fewer than k were asked for."""
    return lambda pairs: QueryMean(ratio(_found(pairs, k), np.bincount(pairs.groups_P)))


def mean_knn_precision(k: int) -> Callable[[RetrievedPairs], Statistic]:
    """The mean precision@k over queries; undefined where fewer than k were asked for."""
    return lambda pairs: QueryMean(_found(pairs, k) / k)


def _found(pairs: RetrievedPairs, k: int) -> FloatArray:
    """How many of its own each query finds among its first k: (Q,)."""
    queries = int(pairs.groups_P.max()) + 1
    if k > pairs.depth:
        return np.full(queries, np.nan)
    first_P = (pairs.ranks_P >= 0) & (pairs.ranks_P < k)
    return np.bincount(pairs.groups_P[first_P], minlength=queries).astype(np.float64)
