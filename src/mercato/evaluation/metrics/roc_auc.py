"""ROC AUC: the chance that a relevant pair scores above an irrelevant one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray, ratio, require_finite, tie_starts
from mercato.evaluation.metrics.metric import QueryMean, ScoredPairs, Statistic

# --- kernel


def weighted_auc(groups_P: IntArray, labels_P: BoolArray, scores_P: FloatArray) -> Callable[[FloatArray], float]:
    """Sort once; the returned function gives the AUC under any weights_Q of the queries, in one pass over the pairs."""
    scores_P = require_finite(scores_P)
    relevant = np.flatnonzero(labels_P)
    others = np.flatnonzero(~labels_P)
    others = others[np.argsort(scores_P[others], kind="stable")]
    below = np.searchsorted(scores_P[others], scores_P[relevant], side="left")
    below_or_tied = np.searchsorted(scores_P[others], scores_P[relevant], side="right")
    groups_relevant, groups_others = groups_P[relevant], groups_P[others]
    passed = np.zeros(len(others) + 1)

    def auc(weights_Q: FloatArray) -> float:
        weights_relevant = weights_Q[groups_relevant]
        np.cumsum(weights_Q[groups_others], out=passed[1:])
        comparisons = weights_relevant.sum() * passed[-1]
        # Not `@`: BLAS would wake its threads for so short a product, thousands of times.
        won = (weights_relevant * (passed[below] + passed[below_or_tied])).sum() / 2
        return float(won / comparisons) if comparisons else float("nan")

    return auc


def comparisons(groups_P: IntArray, relevant_P: FloatArray, scores_P: npt.ArrayLike) -> tuple[FloatArray, FloatArray]:
    """Compare every relevant pair with every other one of its group: comparisons won (a tie ½) and made, (groups,)."""
    scores = require_finite(np.asarray(scores_P, dtype=np.float64))
    if not len(scores):
        return np.empty(0), np.empty(0)
    order_P = np.lexsort((scores, groups_P))
    groups, relevant = groups_P[order_P], relevant_P[order_P]
    starts_G = tie_starts(groups, scores[order_P])
    groups_G = groups[starts_G]
    positive_G = np.add.reduceat(relevant, starts_G)
    negative_G = np.add.reduceat(1 - relevant, starts_G)
    positive_Q = np.bincount(groups_G, positive_G)
    negative_Q = np.bincount(groups_G, negative_G)
    earlier_queries_G = (np.cumsum(negative_Q) - negative_Q)[groups_G]
    below_G = np.cumsum(negative_G) - negative_G - earlier_queries_G
    won_Q: FloatArray = np.bincount(groups_G, positive_G * (below_G + negative_G / 2)).astype(np.float64)
    made_Q: FloatArray = (positive_Q * negative_Q).astype(np.float64)
    return won_Q, made_Q


# --- public


def roc_auc(labels_P: npt.ArrayLike, scores_P: npt.ArrayLike) -> float:
    r"""ROC AUC over all pairs together, a tie counting one half (Que2Search §3.4).

    .. math:: \frac{1}{|P||N|} \sum_{p \in P} \sum_{n \in N} [s_p > s_n] + \tfrac12 [s_p = s_n]

    which is the Mann–Whitney U statistic divided by |P||N|; computed by ranks in O(n log n).

    Args:
        labels_P: bool (P,), true where the pair is relevant (or engaged).
        scores_P: float (P,), higher is better.

    Returns:
        A number in [0, 1]; .5 for a constant scorer; NaN (undefined) where one of the two classes is absent.

    Raises:
        ValueError: a score is NaN.
    """
    labels = np.asarray(labels_P, dtype=np.bool_)
    one_query = np.zeros(len(labels), dtype=np.int64)
    return weighted_auc(one_query, labels, np.asarray(scores_P, dtype=np.float64))(np.ones(1))


def per_query_roc_auc(groups_P: IntArray, labels_P: npt.ArrayLike, scores_P: npt.ArrayLike) -> FloatArray:
    """ROC AUC of each query's own pairs: no comparison crosses queries, so a query's difficulty cannot help or hurt.

    Args:
        groups_P: int (P,), the query of each pair, 0 … Q - 1.
        labels_P: bool (P,).
        scores_P: float (P,).

    Returns:
        float (Q,), Q = the largest group + 1; NaN for a query that lacks one of the classes (leave it out of the mean).

    Raises:
        ValueError: a score is NaN.
    """
    return ratio(*comparisons(groups_P, np.asarray(labels_P, dtype=np.float64), scores_P))


# --- statistics


def pooled_auc(groups_P: IntArray, labels_P: BoolArray, scores_P: FloatArray) -> Statistic:
    """ROC AUC over all pairs, resampling whole queries: exact, every pair weighs as often as its query was drawn."""
    auc = weighted_auc(groups_P, labels_P, scores_P)
    return lambda weights_RQ: np.array([auc(weights_Q) for weights_Q in weights_RQ])


def pooled_roc_auc(pairs: ScoredPairs) -> Statistic:
    """ROC AUC over the pairs of all queries together."""
    return pooled_auc(pairs.groups_P, pairs.labels_P, pairs.scores_P)


def mean_roc_auc(pairs: ScoredPairs) -> Statistic:
    """The mean ROC AUC over queries."""
    return QueryMean(per_query_roc_auc(pairs.groups_P, pairs.labels_P, pairs.scores_P))
