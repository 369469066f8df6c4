"""How many of the first K products found are unjudged: how much of what a searcher sees no relevance metric knows."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.evaluation.metrics.knn import hits
from mercato.evaluation.metrics.metric import QueryMean, ScoredPairs, Statistic

# --- kernel and public


def unjudged_at_k(top_QK: IntArray, groups_P: IntArray, products_P: IntArray, catalogue: int, k: int) -> FloatArray:
    r"""Count the unjudged products among the first K that are found for each query.

    .. math:: U@K = |top_K(q) \setminus judged(q)|

    Neither few nor many are good: a system that finds what no rater was shown may be better or worse for it. Metrics of
    judged products alone are biased against it (Buckley & Voorhees, SIGIR 2004).

    Args:
        top_QK: int (Q, K' ≥ K), the rows of the products found, best first, -1 where nothing more was found.
        groups_P: int (P,), the query (0 … Q - 1) of each judged pair.
        products_P: int (P,), the row of its product.
        catalogue: how many products there are.
        k: the ranks looked at.

    Returns:
        float (Q,) in 0 … K.
    """
    top_QK = top_QK[:, :k]
    unjudged_QK = (top_QK >= 0) & ~hits(top_QK, groups_P, products_P, catalogue)
    unjudged_Q: FloatArray = unjudged_QK.sum(axis=1, dtype=np.float64)
    return unjudged_Q


def mean_unjudged(k: int) -> Callable[[ScoredPairs], Statistic]:
    """The mean over queries; undefined where only judged products were ranked."""

    def statistic(pairs: ScoredPairs) -> Statistic:
        found = pairs.found
        if found is None:
            return QueryMean(np.full(int(pairs.groups_P.max()) + 1, np.nan))
        return QueryMean(unjudged_at_k(found.top_QK, found.groups_P, found.products_P, found.catalogue, k))

    return statistic
