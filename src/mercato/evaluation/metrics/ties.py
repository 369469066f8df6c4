"""What a ranking with ties shows at each rank, on average over every order of the tied products."""

from __future__ import annotations

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray, IntArray, require_finite, tie_starts


def expected_gains(
    groups_P: IntArray, gains_P: FloatArray, scores_P: FloatArray
) -> tuple[IntArray, IntArray, FloatArray]:
    """Rank each query's pairs by descending score; tied pairs share the mean of their gains.

    A metric that is linear in the gains is then its expectation over all orders of the ties, so that a constant scorer
    gets what a random one gets on average, whatever the order of the table (McSherry & Najork, ECIR 2008).

    Returns:
        groups (P,), rank (P,) from 0 within the query, expected gain (P,) at that rank: in ranked order.

    Raises:
        ValueError: a score is NaN.
    """
    scores = require_finite(scores_P)
    order_P = np.lexsort((-scores, groups_P))
    groups = np.asarray(groups_P)[order_P]
    tie_P = _group_numbers(tie_starts(groups, scores[order_P]), len(groups))
    mean_G = np.bincount(tie_P, np.asarray(gains_P, dtype=np.float64)[order_P]) / np.maximum(np.bincount(tie_P), 1)
    first_Q = tie_starts(groups)
    rank_P = np.arange(len(groups)) - first_Q[_group_numbers(first_Q, len(groups))]
    return groups, rank_P, mean_G[tie_P]


def _group_numbers(starts_G: IntArray, size: int) -> IntArray:
    """The number of the group that each position lies in: (size,)."""
    begins = np.zeros(size, dtype=np.int64)
    begins[starts_G] = 1
    return np.cumsum(begins) - 1
