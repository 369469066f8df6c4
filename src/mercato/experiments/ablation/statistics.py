r"""How sure a mean over seeds is, and a difference of two rows: over other seeds, and over other queries.

Two things make a measured step differ from the true one. Another **seed** trains another model: with the differences
:math:`d_s` of n seeds, paired (both rows trained with seed s), their mean has the standard error
:math:`s_d/\sqrt n`, and a t interval. Other **queries** measure it otherwise: under the bootstrap resamples r of the
queries, the same for every run, the seed-mean difference :math:`\bar d_r` spreads by :math:`se_q`. The two are nearly
independent, so the half-width of the 95 % interval is

.. math:: h = \sqrt{(t_{n-1,.975}\, s_d/\sqrt n)^2 + (1.96\, se_q)^2}

With one seed the first part cannot be known: the interval is then that of these very models over other queries.

Of the many steps of a page some leave 0 by chance. What is said of them rests on p-values adjusted by Holm's method
(Scand. J. Statist. 1979) over all steps of all metrics. For these the spread over seeds is that of the study: n seeds
tell little of one step's, but rows × seeds are a randomised block design, whose residual variance has (rows − 1)(n − 1)
degrees of freedom.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import NORMAL_95

STUDENT = (12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)  # of 1 … 9 degrees
STEPS = 2001  # of an integral


@dataclass(frozen=True)
class Difference:
    """A row minus the row that it starts from."""

    value: float  # the mean over seeds
    seeds: float | None  # half-width of the 95 % interval over seeds alone; None for one seed
    queries: float  # … over queries alone

    @property
    def half_width(self) -> float:
        """Of the 95 % interval over both."""
        return float(np.hypot(self.seeds or 0.0, self.queries))

    @property
    def interval(self) -> tuple[float, float]:
        """95 %."""
        return self.value - self.half_width, self.value + self.half_width

    def p(self, residual: Residual) -> float:
        """The chance of a difference at least as large where there is none, two-sided."""
        error = float(np.hypot(residual.deviation * np.sqrt(2 / residual.seeds), self.queries / NORMAL_95))
        if not error:
            return 1.0 if not self.value else 0.0
        return tail(abs(self.value) / error, residual.degrees)


@dataclass(frozen=True)
class Residual:
    """How far single runs lie from what their row and their seed let expect."""

    deviation: float  # 0 for one seed: nothing is known of it
    seeds: int
    degrees: int | None  # of freedom; None: only the queries vary, and their resamples are many

    @classmethod
    def of(cls, values_WZ: FloatArray) -> Residual:
        """Of one metric's figures by row and seed (Fisher's randomised blocks, the seeds being the blocks)."""
        rows, seeds = values_WZ.shape
        degrees = (rows - 1) * (seeds - 1)
        if not degrees:
            return cls(0.0, seeds, None)
        rest_WZ = values_WZ - values_WZ.mean(1, keepdims=True) - values_WZ.mean(0, keepdims=True) + values_WZ.mean()
        return cls(float(np.sqrt((rest_WZ**2).sum() / degrees)), seeds, degrees)


def tail(statistic: float, degrees: int | None) -> float:
    r"""How often Student's t (a normal variable: None) lies further from 0, on both sides.

    With :math:`t = \sqrt\nu\tan\theta` its density is :math:`\cos^{\nu-1}\theta` up to a factor.
    """
    if degrees is None:
        return math.erfc(statistic / math.sqrt(2))
    angle = math.atan(statistic / math.sqrt(degrees))
    beyond, within = (
        float(np.trapezoid(np.cos(angles) ** (degrees - 1), angles))
        for angles in (np.linspace(angle, math.pi / 2, STEPS), np.linspace(0, angle, STEPS))
    )
    return beyond / (beyond + within)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: those under a level stay under it with all of them together."""
    adjusted, highest = [0.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda place: ps[place])):
        highest = max(highest, min(1.0, (len(ps) - rank) * ps[place]))
        adjusted[place] = highest
    return adjusted


def student(degrees: int) -> float:
    """The .975 quantile of Student's t: a table up to 9 degrees, then Cornish and Fisher's expansion (to 1e-4)."""
    if degrees <= len(STUDENT):
        return STUDENT[degrees - 1]
    z = NORMAL_95
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92_160,
    )
    return z + float(sum(term / degrees**power for power, term in enumerate(terms, 1)))


def seed_half_width(values_Z: FloatArray) -> float | None:
    """Half the 95 % t interval of the mean of one value a seed; None for one seed."""
    seeds = len(values_Z)
    return float(student(seeds - 1) * np.std(values_Z, ddof=1) / np.sqrt(seeds)) if seeds > 1 else None


def difference(ours_Z: FloatArray, theirs_Z: FloatArray, ours_ZR: FloatArray, theirs_ZR: FloatArray) -> Difference:
    """Compare two rows, paired by seed and by resample (see above).

    Args:
        ours_Z: float (Z,), the figure of each seed; `theirs_Z` likewise, the same seeds in the same order.
        ours_ZR: float (Z, R), its bootstrap replicates over queries, NaN where undefined; every run resamples the same
            queries in the same way.
    """
    differences_Z = ours_Z - theirs_Z
    spread_R = (ours_ZR - theirs_ZR).mean(axis=0)
    spread_R = spread_R[~np.isnan(spread_R)]
    error = float(np.std(spread_R, ddof=1)) if len(spread_R) > 1 else 0.0
    return Difference(float(differences_Z.mean()), seed_half_width(differences_Z), NORMAL_95 * error)
