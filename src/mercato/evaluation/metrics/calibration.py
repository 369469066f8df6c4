"""How far chances that were told lie from what happened."""

from __future__ import annotations

import numpy as np

from mercato.evaluation.metrics.arrays import BoolArray, FloatArray

BINS = 10


def calibration_error(told_P: FloatArray, happened_P: BoolArray) -> float:
    r"""The expected calibration error (Guo, Pleiss, Sun & Weinberger, ICML 2017, equation 5); NaN of no chances.

    .. math:: \sum_b \frac{n_b}{P} \Big| \overline{told}_b - \overline{happened}_b \Big|

    The bins are ten of equal mass, not of equal width as there: where most chances are small, most of the ten would
    hold nothing. Equal chances are never parted. Of few rows it is chance's work: about
    :math:`\sqrt{2 p (1 - p) / (\pi n_b)}` where nothing is wrong.
    """
    if not len(told_P):
        return float("nan")
    edges = np.quantile(told_P, np.arange(1, BINS) / BINS)
    bins_P = np.searchsorted(edges, told_P, side="left")  # what is an edge lies below it
    apart_B = np.bincount(bins_P, told_P) - np.bincount(bins_P, happened_P)
    return float(np.abs(apart_B).sum() / len(told_P))
