"""The array types of the evaluation, and the tie groups that every tie rule is built on (letters: docs/notation.md)."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
BoolArray = npt.NDArray[np.bool_]
Vectors = npt.NDArray[np.float32]


def tie_starts(*sorted_P: npt.NDArray[np.int64] | npt.NDArray[np.float64]) -> IntArray:
    """Where each tie group begins in arrays sorted together: the positions at which any differs from the last, (G,)."""
    changed_P = np.ones(len(sorted_P[0]), dtype=np.bool_)
    if len(changed_P):
        changed_P[1:] = np.logical_or.reduce([values[1:] != values[:-1] for values in sorted_P])
    return np.flatnonzero(changed_P)


def require_finite(scores_P: FloatArray) -> FloatArray:
    """Return the scores as float64.

    Raises:
        ValueError: a score is NaN, which no ranking can place.
    """
    scores: FloatArray = np.asarray(scores_P, dtype=np.float64)
    if np.isnan(scores).any():
        raise ValueError(f"score {int(np.flatnonzero(np.isnan(scores))[0])} is NaN")
    return scores


def ratio(above: npt.ArrayLike, below: npt.ArrayLike) -> FloatArray:
    """Divide, with NaN where the divisor is 0: the metric is undefined there."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    quotient: FloatArray = np.divide(above, below, out=np.full(np.shape(above), np.nan), where=below != 0)
    return quotient
