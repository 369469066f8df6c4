"""nDCG of displayed lists, each gain over the chance that its position was looked at at all."""

from __future__ import annotations

import numpy as np

from mercato.evaluation.metrics.arrays import FloatArray, IntArray, ratio
from mercato.evaluation.metrics.metric import QueryMean, ScoredLists, Statistic
from mercato.evaluation.metrics.ndcg import ndcg

# --- kernel


def list_mean(queries_L: IntArray, values_L: FloatArray) -> FloatArray:
    """The mean of each query's lists on which the value is defined: float (Q,), NaN for a query without one."""
    defined_L = ~np.isnan(values_L)
    return ratio(np.bincount(queries_L, np.nan_to_num(values_L)), np.bincount(queries_L, defined_L))


# --- public


def mean_ndcg_ips(lists: ScoredLists) -> Statistic:
    r"""The mean over queries of the mean over their displayed lists of nDCG with inverse propensities.

    .. math:: \frac{\sum_r (d_r / \pi_{k_r}) / \log_2(r + 1)}{\sum_r (d^*_r / \pi_{k^*_r}) / \log_2(r + 1)}

    r are the ranks by the system's score, d the steps of the chain that the search took on the product, π the
    propensity of the position k at which it was shown (Joachims, Swaminathan & Schnabel, WSDM 2017; nDCG by Järvelin &
    Kekäläinen, TOIS 2002). The whole list is ranked; ties get their expected gain. A list in which nothing was clicked
    is left out.
    """
    whole = len(lists.lists_P)  # no list is longer
    return QueryMean(list_mean(lists.queries_L, ndcg(lists.lists_P, lists.gains_P, lists.scores_P, whole)))
