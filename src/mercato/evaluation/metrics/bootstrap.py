"""Bootstrap intervals over queries: how far a figure would move had other things been asked for.

What is drawn is a unit: all queries that ask for the same thing, so that ten spellings of one wish are not ten pieces
of evidence. The weights of a resample (how often each query was drawn) give one bootstrap replicate of a `Statistic`,
and two systems measured under the same resamples a paired difference, free of what makes a query hard for both.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.evaluation.metrics.metric import Statistic

Interval = tuple[float, float]

RESAMPLES = 1000
NORMAL_95 = 1.959964  # standard errors on either side of a mean: the normal .975 quantile


@dataclass(frozen=True)
class Estimate:
    """A figure and its bootstrap replicates (R,); those of the same queries subtract in pairs."""

    value: float
    replicates_R: FloatArray

    @property
    def interval(self) -> Interval | None:
        """95 %; None where no replicate is defined."""
        return interval(self.replicates_R)

    def __sub__(self, other: Estimate) -> Estimate:
        return Estimate(self.value - other.value, self.replicates_R - other.replicates_R)


def resample(units: int | IntArray, seed: int, resamples: int = RESAMPLES) -> FloatArray:
    """Draw whole units with replacement: float (R, Q), how often each query is in each resample.

    Args:
        units: int (Q,), the unit of each query, any numbers; or how many queries there are, each a unit of its own.
        seed: of the draw.
        resamples: R.
    """
    drawn_from, unit_Q = np.unique(np.arange(units) if isinstance(units, int) else units, return_inverse=True)
    count, rng = len(drawn_from), np.random.default_rng(seed)
    draws = (rng.integers(count, size=count) for _ in range(resamples))
    weights_RQ: FloatArray = np.stack([np.bincount(draw, minlength=count)[unit_Q] for draw in draws]).astype(np.float64)
    return weights_RQ


def point(statistic: Statistic, queries: int) -> float | None:
    """The figure itself: every query once. None where it is undefined."""
    value = float(statistic(np.ones((1, queries)))[0])
    return None if np.isnan(value) else value


def estimates(statistics: Mapping[str, Statistic], weights_RQ: FloatArray) -> dict[str, Estimate]:
    """Each metric with its replicates under the resamples; an undefined one is left out."""
    values = {metric: point(statistic, weights_RQ.shape[1]) for metric, statistic in statistics.items()}
    return {
        metric: Estimate(value, statistics[metric](weights_RQ)) for metric, value in values.items() if value is not None
    }


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
