"""Recall@K on judged lists: the share of a query's relevant products among its first K."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mercato.evaluation.metrics.arrays import FloatArray, IntArray, ratio
from mercato.evaluation.metrics.metric import QueryMean, ScoredPairs, Statistic
from mercato.evaluation.metrics.ties import expected_gains

# --- kernel and public


def recall_at_k(groups_P: IntArray, labels_P: npt.ArrayLike, scores_P: FloatArray, k: int = 10) -> FloatArray:
    r"""Recall of each query's judged list.

    .. math:: R@K = \frac{|\{relevant\} \cap \{first\ K\}|}{|\{relevant\}|}

    A query with more than K relevant products cannot reach 1: compare systems, not markets. Ties get their expected
    value (`mercato.evaluation.metrics.ties`).

    Args:
        groups_P: int (P,), the query of each pair, 0 … Q - 1.
        labels_P: bool (P,), true where the pair is relevant.
        scores_P: float (P,), higher is better.
        k: the ranks looked at.

    Returns:
        float (Q,) in [0, 1]; NaN for a query with nothing relevant. Average with `np.nanmean`.

    Raises:
        ValueError: a score is NaN.
    """
    groups, rank_P, relevant_P = expected_gains(groups_P, np.asarray(labels_P, dtype=np.float64), scores_P)
    return ratio(np.bincount(groups, relevant_P * (rank_P < k)), np.bincount(groups, relevant_P))


def mean_recall(k: int) -> Callable[[ScoredPairs], Statistic]:
    """The mean recall@k over queries."""
    return lambda pairs: QueryMean(recall_at_k(pairs.groups_P, pairs.labels_P, pairs.scores_P, k))
