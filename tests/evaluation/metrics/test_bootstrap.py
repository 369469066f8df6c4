from __future__ import annotations

import numpy as np
import pytest

from mercato.evaluation.metrics.bootstrap import interval, paired_interval, point, resample
from mercato.evaluation.metrics.metric import QueryMean
from mercato.evaluation.metrics.roc_auc import pooled_auc, roc_auc


def test_resamples_draw_as_many_queries_as_there_are_and_repeat_by_seed():
    weights = resample(30, seed=4, resamples=200)
    assert weights.shape == (200, 30)
    assert (weights.sum(axis=1) == 30).all()
    np.testing.assert_array_equal(weights, resample(30, seed=4, resamples=200))
    assert not np.array_equal(weights, resample(30, seed=5, resamples=200))


def test_queries_of_one_unit_are_drawn_together():
    weights = resample(np.array([7, 3, 7, 9]), seed=0, resamples=300)
    assert weights.shape == (300, 4)
    np.testing.assert_array_equal(weights[:, 0], weights[:, 2])
    assert (weights[:, [0, 1, 3]].sum(axis=1) == 3).all()  # three units, three draws
    assert not np.array_equal(weights[:, 0], weights[:, 1])


def test_pooled_auc_of_a_resample_is_the_auc_of_its_copied_pairs():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 6, 80)
    labels, scores = rng.random(80) < 0.4, rng.integers(0, 9, 80).astype(float)
    statistic, weights = pooled_auc(groups, labels, scores), resample(6, 1, resamples=20)
    for value, weight in zip(statistic(weights), weights, strict=True):
        copies = np.repeat(np.arange(80), weight[groups].astype(int))
        np.testing.assert_allclose(value, roc_auc(labels[copies], scores[copies]))
    assert point(statistic, 6) == pytest.approx(roc_auc(labels, scores))


def test_a_query_mean_leaves_undefined_queries_out():
    statistic = QueryMean(np.array([0.2, np.nan, 0.6]))
    assert point(statistic, 3) == pytest.approx(0.4)
    assert statistic(np.array([[2.0, 1.0, 0.0], [0.0, 3.0, 0.0]])) == pytest.approx([0.2, np.nan], nan_ok=True)
    assert point(QueryMean(np.array([np.nan])), 1) is None
    assert interval(np.array([np.nan, np.nan])) is None


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(7)
    covered = 0
    for trial in range(300):
        low, high = interval(QueryMean(rng.normal(0.5, 0.2, 60))(resample(60, trial, resamples=300)))
        covered += low <= 0.5 <= high
    assert 0.90 <= covered / 300 <= 0.985


def test_pairing_sees_a_small_steady_gain_that_the_two_intervals_hide():
    rng = np.random.default_rng(3)
    hard = rng.random(100)
    theirs, ours = QueryMean(hard), QueryMean(hard + 0.02 + rng.normal(0, 0.01, 100))
    weights = resample(100, 0)
    low, high = paired_interval(ours(weights), theirs(weights))
    assert 0.01 < low < high < 0.03
    assert interval(ours(weights))[0] < interval(theirs(weights))[1]
    assert paired_interval(ours(weights), ours(weights)) == (0, 0)
