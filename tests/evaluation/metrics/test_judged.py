"""The judged-list metrics against independent implementations, and what must hold for any input."""

from __future__ import annotations

import ir_measures
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import mannwhitneyu

from mercato.evaluation.metrics.ndcg import ndcg
from mercato.evaluation.metrics.recall import recall_at_k
from mercato.evaluation.metrics.roc_auc import per_query_roc_auc, roc_auc

GRADES = (0.0, 0.01, 0.1, 1.0)


@st.composite
def judged_lists(draw, ties: bool = True):
    """Up to four queries with up to 25 graded, scored products each: (groups, grades, scores)."""
    sizes = draw(st.lists(st.integers(1, 25), min_size=1, max_size=4))
    size = sum(sizes)
    grades = draw(st.lists(st.sampled_from(GRADES), min_size=size, max_size=size))
    scores = (
        draw(st.lists(st.integers(-5, 5), min_size=size, max_size=size)) if ties else draw(st.permutations(range(size)))
    )
    return np.repeat(np.arange(len(sizes)), sizes), np.array(grades), np.array(scores, dtype=np.float64)


@given(judged_lists())
def test_auc_is_mann_whitney_u(lists):
    groups, grades, scores = lists
    labels = grades >= 1
    if labels.all() or not labels.any():
        assert np.isnan(roc_auc(labels, scores))
    else:
        u = mannwhitneyu(scores[labels], scores[~labels]).statistic
        assert roc_auc(labels, scores) == pytest.approx(u / (labels.sum() * (~labels).sum()))
    per_query = per_query_roc_auc(groups, labels, scores)
    for group in range(groups.max() + 1):
        own = groups == group
        np.testing.assert_allclose(per_query[group], roc_auc(labels[own], scores[own]), atol=1e-12)


@given(judged_lists(ties=False))
def test_ndcg_and_recall_agree_with_ir_measures(lists):
    groups, grades, scores = lists
    # gdeval-style integer gains: ir_measures takes integer grades, so grades enter as hundredths (nDCG ignores scale)
    qrels = [
        ir_measures.Qrel(str(q), f"d{i}", round(100 * g)) for i, (q, g) in enumerate(zip(groups, grades, strict=True))
    ]
    run = [ir_measures.ScoredDoc(str(q), f"d{i}", s) for i, (q, s) in enumerate(zip(groups, scores, strict=True))]
    measures = [ir_measures.nDCG @ 10, ir_measures.R(rel=100) @ 5]
    theirs = {(r.query_id, str(r.measure)): r.value for r in ir_measures.iter_calc(measures, qrels, run)}
    ours_ndcg, ours_recall = ndcg(groups, grades, scores, 10), recall_at_k(groups, grades >= 1, scores, 5)
    for group in range(groups.max() + 1):
        own = grades[groups == group]
        if own.max() > 0:
            assert ours_ndcg[group] == pytest.approx(theirs[str(group), "nDCG@10"])
        else:
            assert np.isnan(ours_ndcg[group])
        if own.max() >= 1:
            assert ours_recall[group] == pytest.approx(theirs[str(group), "R(rel=100)@5"])
        else:
            assert np.isnan(ours_recall[group])


@given(judged_lists(), st.randoms(use_true_random=False))
def test_only_the_order_of_scores_matters(lists, random):
    groups, grades, scores = lists
    shuffle = list(range(len(groups)))
    random.shuffle(shuffle)
    for metric in (
        lambda g, y, s: ndcg(g, y, s, 3),
        lambda g, y, s: recall_at_k(g, y >= 1, s, 3),
        lambda g, y, s: per_query_roc_auc(g, y >= 1, s),
        lambda g, y, s: np.array([roc_auc(y >= 1, s)]),
    ):
        values = metric(groups, grades, scores)
        defined = values[~np.isnan(values)]
        assert ((defined >= 0) & (defined <= 1 + 1e-12)).all()
        np.testing.assert_allclose(metric(groups, grades, scores**3 - 7), values)  # monotone, exact on small integers
        np.testing.assert_allclose(metric(groups[shuffle], grades[shuffle], scores[shuffle]), values)


@given(judged_lists())
def test_perfect_scores_are_perfect_and_reversed_auc_is_its_complement(lists):
    groups, grades, scores = lists
    best = ndcg(groups, grades, grades, 10)
    assert np.allclose(best[~np.isnan(best)], 1)
    np.testing.assert_allclose(roc_auc(grades >= 1, -scores), 1 - roc_auc(grades >= 1, scores))


def test_a_constant_scorer_gets_what_chance_gives_wherever_the_relevant_ones_stand():
    groups, constant = np.zeros(100, dtype=np.int64), np.zeros(100)
    for grades in (np.r_[np.ones(20), np.zeros(80)], np.r_[np.zeros(80), np.ones(20)]):
        assert roc_auc(grades >= 1, constant) == 0.5
        assert ndcg(groups, grades, constant, 10) == pytest.approx([0.2])
        assert recall_at_k(groups, grades >= 1, constant, 10) == pytest.approx([0.1])


def test_a_tie_counts_as_the_mean_over_its_orders():
    # grades 1 and 0 tied on ranks 2 and 3, an irrelevant one first
    groups, grades, scores = np.zeros(3, dtype=np.int64), np.array([0.0, 1.0, 0.0]), np.array([2.0, 1.0, 1.0])
    either = (1 / np.log2(3) + 1 / np.log2(4)) / 2
    assert ndcg(groups, grades, scores, 10) == pytest.approx([either])
    assert recall_at_k(groups, grades >= 1, scores, 2) == pytest.approx([0.5])


def test_nan_scores_are_refused_and_empty_lists_are_undefined():
    with pytest.raises(ValueError, match="score 1 is NaN"):
        roc_auc([True, False], [0.1, float("nan")])
    with pytest.raises(ValueError, match="score 0 is NaN"):
        ndcg(np.array([0]), np.array([1.0]), np.array([np.nan]))
    assert np.isnan(roc_auc([], []))
    assert len(per_query_roc_auc(np.empty(0, dtype=np.int64), [], [])) == 0
