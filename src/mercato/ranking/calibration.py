"""Whether the chances that stage 2 tells come true, on displayed lists that taught it nothing.

Shapes: P rows of lists, H hits, K steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mercato.evaluation.dataset import DisplayedLists
from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray
from mercato.evaluation.metrics.calibration import calibration_error

Chances = Callable[[IntArray, IntArray], NDArray[np.floating]]  # of rows of queries and products, (P,) each: (P, K)


@dataclass(frozen=True)
class Held:
    """Chances held against what happened."""

    rows: int
    told: float  # their mean
    found: float  # the share of which it came true
    ece: float  # see `mercato.evaluation.metrics.calibration`

    @classmethod
    def against(cls, told_P: FloatArray, happened_P: BoolArray) -> Held | None:
        """None of no rows."""
        if not len(told_P):
            return None
        return cls(len(told_P), float(told_P.mean()), float(happened_P.mean()), calibration_error(told_P, happened_P))


@dataclass(frozen=True)
class StepCalibration:
    """A step's chances; None where there are no rows."""

    step: str
    first: Held | None  # of coming as far: of what stood first, as the position takes its share of all others' clicks
    given: Held | None  # of going on from the step before, wherever it stood; of the first step the same as `first`


def calibrated(lists: DisplayedLists, chances: Chances, steps: Sequence[str]) -> list[StepCalibration]:
    """Each step's calibration. What has no chance (the index does not hold it) is left out."""
    first_P, depth_P = lists.positions_P == 1, lists.shown.grades
    read_P = first_P | (depth_P >= 1)  # no other row is asked about
    told_PK = np.full((len(depth_P), len(steps)), np.nan)
    told_PK[read_P] = chances(lists.shown.queries[read_P], lists.shown.products[read_P])
    known_P = np.isfinite(told_PK).all(axis=1)
    first_P &= known_P
    found = []
    for step, name in enumerate(steps):
        first = Held.against(told_PK[first_P, step], depth_P[first_P] > step)
        given = first
        if step:
            came_P = known_P & (depth_P >= step)
            on_P = told_PK[came_P, step] / np.maximum(told_PK[came_P, step - 1], 1e-12)
            given = Held.against(on_P, depth_P[came_P] > step)
        found.append(StepCalibration(name, first, given))
    return found
