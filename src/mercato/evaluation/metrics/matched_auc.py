"""ROC AUC of engagement freed of exposure: like is compared with like, or only what somebody clicked.

A pair is engaged when anybody engaged with it in the period, so that what is shown often is engaged more often: the
number of impressions alone predicts the label. Within a stratum of impressions it cannot.
"""

from __future__ import annotations

import numpy as np

from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray, ratio
from mercato.evaluation.metrics.metric import EngagementPairs, QueryMean, Statistic
from mercato.evaluation.metrics.roc_auc import comparisons, per_query_roc_auc

BOUNDS = np.array(sorted({2**k for k in range(40)} | {3 * 2**k for k in range(40)}))  # 1, 2, 3, 4, 6, 8, 12, 16, …

# --- kernel


def strata(impressions_P: FloatArray) -> IntArray:
    """The stratum of each number of impressions: 1, 2, 3, 4, 5–6, 7–8, 9–12, 13–16, … (half an octave each): int (P,).

    -1 where it is NaN (unknown) or 0 (nothing was shown, so that there is no exposure to match).
    """
    shown_P = impressions_P >= 1
    return np.where(shown_P, np.searchsorted(BOUNDS, np.where(shown_P, impressions_P, 1)), -1)


# --- public


def matched_roc_auc(groups_P: IntArray, strata_P: IntArray, labels_P: BoolArray, scores_P: FloatArray) -> FloatArray:
    r"""ROC AUC of each query over the comparisons within its strata only.

    .. math:: \frac{\sum_s \sum_{p \in P_s} \sum_{n \in N_s} [s_p > s_n] + \tfrac12 [s_p = s_n]}{\sum_s |P_s||N_s|}

    the stratified Mann–Whitney statistic (van Elteren 1960, weighted by the number of comparisons).

    Args:
        groups_P: int (P,), the query of each pair, 0 … Q - 1.
        strata_P: int (P,), what a pair is compared within; a negative one takes no part.
        labels_P: bool (P,), true where the pair is engaged.
        scores_P: float (P,).

    Returns:
        float (Q,), Q = the largest group + 1; NaN for a query without a comparison.

    Raises:
        ValueError: a score is NaN.
    """
    queries, width = int(groups_P.max(initial=-1)) + 1, int(strata_P.max(initial=0)) + 1
    some = strata_P >= 0
    cells_C, cell_P = np.unique(groups_P[some] * width + strata_P[some], return_inverse=True)
    won_C, made_C = comparisons(cell_P, labels_P[some].astype(np.float64), scores_P[some])
    query_C = cells_C // width
    return ratio(np.bincount(query_C, won_C, queries), np.bincount(query_C, made_C, queries))


# --- statistics


def exposure_matched(pairs: EngagementPairs) -> Statistic:
    """The mean over queries of the AUC within strata of impressions."""
    return QueryMean(matched_roc_auc(pairs.groups_P, pairs.strata_P, pairs.labels_P, pairs.scores_P))


def same_kind(pairs: EngagementPairs) -> Statistic:
    """The same, within strata of impressions and one leaf category."""
    both_P = np.where((pairs.strata_P >= 0) & (pairs.kinds_P >= 0), pairs.kinds_P * len(BOUNDS) + pairs.strata_P, -1)
    return QueryMean(matched_roc_auc(pairs.groups_P, both_P, pairs.labels_P, pairs.scores_P))


def of_clicked(pairs: EngagementPairs) -> Statistic:
    """The mean over queries of the AUC of engaged pairs against those clicked and then left."""
    some = pairs.labels_P | pairs.clicked_P
    values_Q = np.full(int(pairs.groups_P.max(initial=-1)) + 1, np.nan)
    found_Q = per_query_roc_auc(pairs.groups_P[some], pairs.labels_P[some], pairs.scores_P[some])
    values_Q[: len(found_Q)] = found_Q
    return QueryMean(values_Q)
