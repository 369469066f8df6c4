r"""How sure a mean over seeds is, and a difference of two rows: over other seeds, and over other queries.

Two things make a measured step differ from the true one. Another **seed** trains another model: with the differences
:math:`d_s` of n seeds, paired (both rows trained with seed s), their mean has the standard error
:math:`s_d/\sqrt n`, and a t interval. Other **queries** measure it otherwise: under the bootstrap resamples r of the
queries, the same for every run, the seed-mean difference :math:`\bar d_r` spreads by :math:`se_q`. The two are nearly
independent, so the half-width of the 95 % interval is

.. math:: h = \sqrt{(t_{n-1,.975}\, s_d/\sqrt n)^2 + (1.96\, se_q)^2}

With one seed the first part cannot be known: the interval is then that of these very models over other queries.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import NORMAL_95

STUDENT = (12.70620, 4.30265, 3.18245, 2.77645, 2.57058, 2.44691, 2.36462, 2.30600, 2.26216)  # of 1 … 9 degrees


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
