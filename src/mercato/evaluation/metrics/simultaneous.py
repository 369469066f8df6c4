"""Intervals of several differences on one page that hold all together, by the largest studentised deviation."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import Estimate, Interval

ROUNDING = 1e-9  # a difference that varies by less is the same in every resample

Key = TypeVar("Key", bound=Hashable)


def simultaneous_intervals(parts: Sequence[Mapping[Key, Estimate]], level: float = 0.95) -> dict[Key, Interval | None]:
    r"""Intervals that all hold at once with the chance `level` (Romano & Wolf, JASA 2005; Westfall & Young 1993).

    Each is :math:`d_j \pm c \cdot se_j`, where se is the standard deviation of the replicates and c the `level`
    quantile of the largest :math:`|d_{jr} - d_j| / se_j` over all j. The replicates of one part were drawn together,
    which keeps the correlations of its metrics and systems; parts are taken as independent, so that the chance that
    none exceeds c is the product of the parts'.

    Args:
        parts: the differences of each part, on the same resamples within a part; keys differ between parts.
        level: of all intervals together.

    Returns:
        The interval of each key; None where fewer than two replicates are defined.
    """
    widest = [np.sort(_widest(estimates.values())) for estimates in parts]
    widest = [deviations_R for deviations_R in widest if len(deviations_R)]
    candidates = np.sort(np.concatenate([*widest, np.zeros(1)]))
    below = np.ones(len(candidates))
    for deviations_R in widest:
        below *= np.searchsorted(deviations_R, candidates, side="right") / len(deviations_R)
    factor = float(candidates[np.argmax(below >= level)])
    return {key: _interval(estimate, factor) for estimates in parts for key, estimate in estimates.items()}


def _widest(estimates: Iterable[Estimate]) -> FloatArray:
    """The largest studentised deviation of each replicate: (R,), without those in which nothing is defined."""
    errors = [(estimate, _error(estimate)) for estimate in estimates]
    found = [(estimate, error) for estimate, error in errors if error and error > ROUNDING]
    deviations = [np.abs(estimate.replicates_R - estimate.value) / error for estimate, error in found]
    largest_R: FloatArray = np.fmax.reduce(deviations) if deviations else np.empty(0)
    return largest_R[~np.isnan(largest_R)]


def _error(estimate: Estimate) -> float | None:
    """The bootstrap's standard error; None where fewer than two replicates are defined."""
    defined_R = estimate.replicates_R[~np.isnan(estimate.replicates_R)]
    return float(np.std(defined_R, ddof=1)) if len(defined_R) > 1 else None


def _interval(estimate: Estimate, factor: float) -> Interval | None:
    error = _error(estimate)
    return None if error is None else (estimate.value - factor * error, estimate.value + factor * error)
