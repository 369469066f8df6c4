"""nDCG@K: are the best products first, discounted by rank."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray, IntArray, ratio
from mercato.evaluation.metrics.metric import QueryMean, ScoredPairs, Statistic
from mercato.evaluation.metrics.ties import expected_gains

# --- kernel


def _dcg(groups_P: IntArray, gains_P: FloatArray, scores_P: FloatArray, k: int) -> FloatArray:
    groups, rank_P, gain_P = expected_gains(groups_P, gains_P, scores_P)
    discounted_P: FloatArray = np.where(rank_P < k, gain_P / np.log2(rank_P + 2), 0.0)
    return np.bincount(groups, discounted_P).astype(np.float64)


# --- public


def ndcg(groups_P: IntArray, grades_P: FloatArray, scores_P: FloatArray, k: int = 10) -> FloatArray:
    r"""Normalised discounted cumulative gain of each query's judged list (Järvelin & Kekäläinen, TOIS 2002).

    .. math:: nDCG@K = \frac{\sum_{r=1}^{K} g_r / \log_2(r + 1)}{\sum_{r=1}^{K} g^*_r / \log_2(r + 1)}

    The gain is the grade itself (linear; a negative grade gains nothing), only the judged products of a query are
    ranked, and the ideal order g* is that of the same list. Ties get their expected gain (see
    `mercato.evaluation.metrics.ties`).

    Args:
        groups_P: int (P,), the query of each pair, 0 … Q - 1.
        grades_P: float (P,), higher is better.
        scores_P: float (P,), higher is better.
        k: the ranks looked at.

    Returns:
        float (Q,) in [0, 1]; NaN for a query with no positive grade. Average with `np.nanmean`.

    Raises:
        ValueError: a score is NaN.
    """
    gains_P = np.maximum(np.asarray(grades_P, dtype=np.float64), 0.0)
    return ratio(_dcg(groups_P, gains_P, scores_P, k), _dcg(groups_P, gains_P, gains_P, k))


def mean_ndcg(k: int) -> Callable[[ScoredPairs], Statistic]:
    """The mean nDCG@k over queries."""
    return lambda pairs: QueryMean(ndcg(pairs.groups_P, pairs.grades_P, pairs.scores_P, k))
