from __future__ import annotations

import numpy as np
import pytest

from mercato.evaluation.metrics.bootstrap import point
from mercato.evaluation.metrics.matched_auc import exposure_matched, matched_roc_auc, of_clicked, same_kind, strata
from mercato.evaluation.metrics.metric import EngagementPairs


def pairs(groups, labels, scores, impressions, kinds=None, clicked=None):
    groups = np.asarray(groups)
    return EngagementPairs(
        groups_P=groups,
        grades_P=np.asarray(labels, float),
        labels_P=np.asarray(labels, bool),
        scores_P=np.asarray(scores, float),
        strata_P=strata(np.asarray(impressions, float)),
        kinds_P=np.zeros(len(groups), int) if kinds is None else np.asarray(kinds),
        clicked_P=np.zeros(len(groups), bool) if clicked is None else np.asarray(clicked, bool),
    )


def test_strata_are_single_numbers_and_then_half_octaves():
    bounds = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 6), (7, 8), (9, 12), (13, 16), (17, 24), (25, 32)]
    for place, (low, high) in enumerate(bounds):
        assert strata(np.array([low, high], float)).tolist() == [place, place]
    assert strata(np.array([0, np.nan])).tolist() == [-1, -1]


def test_matched_auc_counts_the_comparisons_within_a_query_and_stratum_alone():
    rng = np.random.default_rng(0)
    groups, cells = rng.integers(0, 5, 200), rng.integers(-1, 4, 200)
    labels, scores = rng.random(200) < 0.3, rng.integers(0, 6, 200).astype(float)
    found = matched_roc_auc(groups, cells, labels, scores)
    for query in range(5):
        won = [
            (scores[p] > scores[n]) + (scores[p] == scores[n]) / 2
            for p in np.flatnonzero(labels & (groups == query) & (cells >= 0))
            for n in np.flatnonzero(~labels & (groups == query) & (cells == cells[p]))
        ]
        assert found[query] == pytest.approx(np.mean(won))


def test_what_is_shown_often_is_no_merit_once_exposure_is_matched():
    rng = np.random.default_rng(1)
    groups, shown = np.repeat(np.arange(40), 50), rng.integers(1, 5, 2000)
    labels = rng.random(2000) < shown / 12
    assert point(exposure_matched(pairs(groups, labels, shown, shown)), 40) == 0.5
    assert point(exposure_matched(pairs(groups, labels, labels * 1.0, shown)), 40) == 1


def test_same_kind_compares_within_category_and_stratum():
    labels, scores = [1, 0, 0, 0, 0], [2, 1, 3, 9, 9]
    shown, kinds = [3, 3, 3, 3, 4], [7, 7, 7, 8, 7]  # the fourth is another thing, the fifth was shown more often
    assert point(same_kind(pairs([0] * 5, labels, scores, shown, kinds)), 1) == 0.5
    assert point(exposure_matched(pairs([0] * 5, labels, scores, shown, kinds)), 1) == pytest.approx(1 / 3)
    assert point(same_kind(pairs([0] * 5, labels, scores, shown, [-1] * 5)), 1) is None  # of no known kind


def test_of_clicked_leaves_out_what_nobody_clicked():
    labels, scores, clicked = [1, 0, 0, 1, 0], [2, 3, 1, 5, 4], [1, 0, 1, 1, 0]
    statistic = of_clicked(pairs([0, 0, 0, 1, 1], labels, scores, [1] * 5, clicked=clicked))
    assert point(statistic, 2) == 1  # of the second query nobody clicked and left: it has no say
    assert statistic(np.array([[0.0, 1.0]])) == pytest.approx([np.nan], nan_ok=True)


def test_without_counts_in_the_log_there_is_no_figure():
    unknown = pairs([0, 0], [1, 0], [2, 1], [np.nan, np.nan])
    assert point(exposure_matched(unknown), 1) is point(same_kind(unknown), 1) is point(of_clicked(unknown), 1) is None
