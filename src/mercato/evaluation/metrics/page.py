"""What stands on a page of results: what it holds of the labelled products of its query, and in which order.

A page ends: what it does not show is missed, however well it would have been ordered.
"""

from __future__ import annotations

import numpy as np

from mercato.evaluation.metrics.arrays import BoolArray, FloatArray, IntArray, ratio
from mercato.evaluation.metrics.metric import Statistic

# --- kernel


def labels_on(
    top_QK: IntArray, groups_P: IntArray, products_P: IntArray, labels_P: FloatArray, catalogue: int
) -> FloatArray:
    """The label of each product of the pages, NaN where it has none: float (Q, K).

    Args:
        top_QK: int (Q, K), the rows of the products on each query's page, best first, -1 where the page has ended.
        groups_P: int (P,), the query (0 … Q - 1) of each labelled pair; no pair is there twice.
        products_P: int (P,), the row of its product.
        labels_P: float (P,), of any meaning.
        catalogue: how many products there are.
    """
    keys_P = groups_P * catalogue + products_P
    order_P = np.argsort(keys_P)
    keys_QK = np.arange(len(top_QK))[:, None] * catalogue + top_QK
    place_QK = np.searchsorted(keys_P[order_P], keys_QK).clip(max=len(keys_P) - 1)
    held_QK: BoolArray = (top_QK >= 0) & (keys_P[order_P][place_QK] == keys_QK)
    return np.where(held_QK, labels_P[order_P][place_QK], np.nan)


# --- public


def condensed(labels_QK: FloatArray) -> FloatArray:
    """The pages without their unlabelled products, the others moved up (Sakai, SIGIR 2007): (Q, K), NaN behind."""
    order_QK = np.argsort(np.isnan(labels_QK), axis=1, kind="stable")
    return np.take_along_axis(labels_QK, order_QK, axis=1)


def page_ndcg(labels_QK: FloatArray, groups_P: IntArray, labels_P: FloatArray, k: int) -> FloatArray:
    r"""Normalised discounted cumulative gain of pages: what is not shown gains nothing.

    .. math:: \frac{\sum_{r=1}^{K} g_r / \log_2(r + 1)}{\sum_{r=1}^{K} g^*_r / \log_2(r + 1)}

    The gain is the label, 0 where there is none or it is negative; the ideal order g* is that of all labelled products
    of the query, on its page or not.

    Args:
        labels_QK: float (Q, K' ≥ k), the labels of the products on each page (`labels_on`).
        groups_P: int (P,), the query of each labelled pair.
        labels_P: float (P,).
        k: the ranks looked at.

    Returns:
        float (Q,) in [0, 1]; NaN for a query with no positive label.
    """
    gains_P = np.maximum(labels_P, 0.0)
    order_P = np.lexsort((-gains_P, groups_P))
    counts_Q = np.bincount(groups_P, minlength=len(labels_QK))
    rank_P = np.arange(len(groups_P)) - np.repeat(np.cumsum(counts_Q) - counts_Q, counts_Q)
    discounted_P = np.where(rank_P < k, gains_P[order_P] / np.log2(rank_P + 2), 0.0)
    ideal_Q = np.bincount(groups_P[order_P], discounted_P, minlength=len(labels_QK))
    gains_QK = np.maximum(np.nan_to_num(labels_QK[:, :k]), 0.0)
    return ratio(gains_QK @ (1 / np.log2(np.arange(2, gains_QK.shape[1] + 2))), ideal_Q)


def mean_label(labels_QK: FloatArray) -> FloatArray:
    """The mean label of the labelled products on each page, NaN where it has none: (Q,)."""
    return ratio(np.nansum(labels_QK, axis=1), (~np.isnan(labels_QK)).sum(axis=1))


def shown_of_all(labels_QK: FloatArray, groups_P: IntArray, labels_P: FloatArray) -> Statistic:
    """The statistic of what is on the pages of all queries together, as a share of the sum of all labels."""
    whole_Q = np.bincount(groups_P, labels_P, minlength=len(labels_QK))
    shown_Q = np.nansum(labels_QK, axis=1)
    return lambda weights_RQ: ratio(weights_RQ @ shown_Q, weights_RQ @ whole_Q)
