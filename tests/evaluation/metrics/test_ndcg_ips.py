from __future__ import annotations

import numpy as np
import pytest

from mercato.evaluation.metrics.bootstrap import point
from mercato.evaluation.metrics.metric import ScoredLists
from mercato.evaluation.metrics.ndcg_ips import mean_ndcg_ips


def test_lists_are_averaged_within_a_query_and_then_queries():
    lists = ScoredLists(
        queries_L=np.array([0, 0, 1, 1]),
        lists_P=np.array([0, 0, 1, 1, 2, 2, 3, 3]),
        gains_P=np.array([1.0, 0, 1.0, 0, 2.0, 1.0, 0, 0]),  # nothing was clicked in the last list: it says nothing
        scores_P=np.array([2.0, 1, 1, 2, 1, 2, 1, 2]),
    )
    second = 1 / np.log2(3)
    swapped = (1 + 2 * second) / (2 + second)
    assert point(mean_ndcg_ips(lists), 2) == pytest.approx(((1 + second) / 2 + swapped) / 2)
    assert mean_ndcg_ips(lists)(np.array([[0.0, 1.0]])) == pytest.approx([swapped])


def test_the_whole_list_counts_and_ties_get_their_expected_gain():
    gains = np.zeros(30)
    gains[7] = 2.0
    alike = ScoredLists(queries_L=np.zeros(1, int), lists_P=np.zeros(30, int), gains_P=gains, scores_P=np.zeros(30))
    assert point(mean_ndcg_ips(alike), 1) == pytest.approx(np.mean(1 / np.log2(np.arange(2, 32))))
