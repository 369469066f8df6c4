"""Bootstrap intervals over queries: how far a figure would move had other queries been asked.

A metric enters as a `Statistic`: a function from query weights to its value. Weights of 1 give the figure itself, the
weights of a resample (how often each query was drawn) give one bootstrap replicate, and two systems measured under the
same resamples give a paired difference, free of what makes a query hard for both.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray, ratio
from mercato.evaluation.metrics.roc_auc import weighted_auc

Statistic = Callable[[FloatArray], FloatArray]  # weights (R, Q) → values (R,), NaN where undefined
Interval = tuple[float, float]

RESAMPLES = 1000
NORMAL_95 = 1.959964  # standard errors on either side of a mean: the normal .975 quantile


def query_mean(values_Q: FloatArray) -> Statistic:
    """The mean of a per-query metric over the queries on which it is defined (not NaN)."""
    defined_Q = (~np.isnan(values_Q)).astype(np.float64)
    values_Q = np.nan_to_num(values_Q)
    return lambda weights_RQ: ratio(weights_RQ @ values_Q, weights_RQ @ defined_Q)


def pooled_auc(groups_P: IntArray, labels_P: BoolArray, scores_P: FloatArray) -> Statistic:
    """ROC AUC over all pairs, resampling whole queries: exact, every pair weighs as often as its query was drawn."""
    auc = weighted_auc(groups_P, labels_P, scores_P)
    return lambda weights_RQ: np.array([auc(weights_Q) for weights_Q in weights_RQ])


def resample(queries: int, seed: int, resamples: int = RESAMPLES) -> FloatArray:
    """Draw the queries with replacement: float (R, Q), how often each query is in each resample."""
    rng = np.random.default_rng(seed)
    draws = (rng.integers(queries, size=queries) for _ in range(resamples))
    return np.stack([np.bincount(draw, minlength=queries) for draw in draws]).astype(np.float64)


def point(statistic: Statistic, queries: int) -> float | None:
    """The figure itself: every query once. None where it is undefined."""
    value = float(statistic(np.ones((1, queries)))[0])
    return None if np.isnan(value) else value


def interval(values_R: FloatArray, level: float = 0.95) -> Interval | None:
    """The percentile interval of bootstrap replicates (Efron 1979); undefined replicates are left out.

    Returns:
        (low, high), or None where every replicate is undefined.
    """
    values_R = values_R[~np.isnan(values_R)]
    if not len(values_R):
        return None
    low, high = np.percentile(values_R, [50 * (1 - level), 50 * (1 + level)])
    return float(low), float(high)


def paired_interval(ours_R: FloatArray, theirs_R: FloatArray, level: float = 0.95) -> Interval | None:
    """The interval of ours - theirs, both measured on the same resamples of the same queries.

    When it excludes 0 the difference is not explained by the choice of queries.
    """
    return interval(ours_R - theirs_R, level)
