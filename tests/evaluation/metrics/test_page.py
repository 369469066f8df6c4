"""First pages against figures made by hand, and where every page holds all labels against the metrics of lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.evaluation.metrics.ndcg import ndcg
from mercato.evaluation.metrics.page import condensed, labels_on, mean_label, page_ndcg, shown_of_all

NO = np.nan
TOP = np.array([[4, 2, 9, 0], [1, -1, -1, -1], [5, 6, 7, 8]])
GROUPS, PRODUCTS = np.array([0, 2, 0, 1, 0]), np.array([0, 4, 4, 3, 7])
LABELS = np.array([3.0, 2.0, 1.0, 1.0, 2.0])
ON = labels_on(TOP, GROUPS, PRODUCTS, LABELS, 10)


def test_a_label_is_of_its_own_query_alone():
    np.testing.assert_array_equal(ON, [[1, NO, NO, 3], [NO] * 4, [NO] * 4])


def test_where_a_page_has_ended_there_is_no_label():
    """Not even the last product's of the query before."""
    np.testing.assert_array_equal(labels_on(TOP, np.array([0]), np.array([9]), np.array([2.0]), 10)[1], [NO] * 4)


def test_what_is_not_on_the_page_gains_nothing_but_was_to_be_had():
    gained = 1 + 3 / np.log2(5)
    to_be_had = 3 + 2 / np.log2(3) + 1 / np.log2(4)
    assert page_ndcg(ON, GROUPS, LABELS, 4).tolist() == pytest.approx([gained / to_be_had, 0, 0])
    assert page_ndcg(ON, GROUPS, LABELS, 1).tolist() == pytest.approx([1 / 3, 0, 0]), "of the first rank alone"


def test_the_unlabelled_are_passed_over_in_a_condensed_page():
    np.testing.assert_array_equal(condensed(ON)[0], [1, 3, NO, NO])
    long = np.where(np.arange(60) % 3, np.arange(60.0), NO)
    np.testing.assert_array_equal(condensed(long[None])[0], [*long[~np.isnan(long)], *[NO] * 20])
    gained = 1 + 3 / np.log2(3)
    to_be_had = 3 + 2 / np.log2(3)
    assert page_ndcg(condensed(ON), GROUPS, LABELS, 2)[0] == pytest.approx(gained / to_be_had)


def test_a_query_with_nothing_good_has_no_ndcg_and_a_bad_product_gains_nothing():
    labels = np.array([3.0, -2.0, -1.0, 0.0, 0.0])
    on = labels_on(TOP, GROUPS, PRODUCTS, labels, 10)
    np.testing.assert_array_equal(page_ndcg(on, GROUPS, labels, 4), [1 / np.log2(5), NO, NO])


def test_the_mean_label_is_of_labelled_products():
    np.testing.assert_array_equal(mean_label(ON), [2, NO, NO])


def test_of_all_labels_the_share_that_is_shown_weighs_queries_by_what_they_hold():
    statistic = shown_of_all(ON, GROUPS, LABELS)
    assert statistic(np.ones((1, 3))).tolist() == pytest.approx([4 / 9])
    assert statistic(np.array([[2.0, 1.0, 0.0]])).tolist() == pytest.approx([8 / 13])


@given(st.lists(st.integers(0, 3), min_size=1, max_size=12), st.integers(1, 12), st.randoms())
def test_a_page_that_holds_all_labels_is_a_list(grades, k, random):
    """Beside a second query, whose labels are none of its business."""
    order = [*range(len(grades))]
    random.shuffle(order)
    scores = -np.argsort(order).astype(float)
    top = np.array([order + [-1] * (12 - len(order)), [99] + [-1] * 11])
    groups, products = np.array([0] * len(grades) + [1]), np.array([*range(len(grades)), 0])
    labels = np.array([*grades, 3], float)
    on = labels_on(top, groups, products, labels, 100)
    expected = ndcg(np.zeros(len(grades), int), labels[:-1], scores, k)[0]
    assert page_ndcg(on, groups, labels, k)[0] == pytest.approx(expected, nan_ok=True)
