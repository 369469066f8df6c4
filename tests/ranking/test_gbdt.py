"""The trees: what they learn, and that ONNX scores as LightGBM does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mercato.config.ranking import Ranking, Trees
from mercato.ranking import gbdt
from mercato.ranking.features import MONOTONE, NAMES, rounded
from mercato.ranking.ranker import predicted, session
from tests.support.clicks import COSINE, agreement, drawn

SMALL = Trees(trees=100, leaves=7, least_rows=20)


def fit(rows, seed=0):
    return gbdt.fit(rows, Ranking().gains, SMALL, seed)


def score(rows, learned):
    return predicted(session(gbdt.to_onnx(fit(learned))), rows.features_PF)


def test_trees_learn_what_is_clicked():
    rows, _ = drawn(0)
    others, worth = drawn(1)
    assert agreement(score(others, rows), worth) > 0.85


def test_the_position_is_no_merit():
    """The dear ones stand mostly first, and the last are hardly looked at: blind to that, the trees believe these."""
    rows, _ = drawn(0, examined=lambda position: position**-1.5, by_price=True)
    others, worth = drawn(1)
    blind = replace(rows, positions_P=np.ones_like(rows.positions_P))
    with_positions, without = (agreement(score(others, each), worth) for each in (rows, blind))
    assert with_positions > without + 0.08


def test_onnx_scores_as_lightgbm_does():
    """Rows of any numbers, those beyond what was learned, and none."""
    rows, _ = drawn(0)
    booster = fit(rows)
    model = session(gbdt.to_onnx(booster))
    random = np.random.default_rng(2)
    wild = (random.normal(size=(500, len(NAMES))) * 10.0 ** random.integers(-6, 7, (500, len(NAMES)))).astype(
        np.float32
    )
    wild[random.random(wild.shape) < 0.3] = np.nan
    wild[:3, :] = [[0.0], [np.nan], [-0.0]]
    for each in (rows.features_PF, wild):
        np.testing.assert_allclose(predicted(model, each), booster.predict(each), atol=1e-5)
    assert predicted(model, wild[:0]).shape == (0,)


def test_values_next_to_each_other_part_no_two_runtimes():
    """ONNX has a threshold between neighbouring float32 on one of them; features are rounded so that none are."""
    rows, _ = drawn(0)
    near = np.float32(0.3) + np.spacing(np.float32(0.3)) * np.random.default_rng(4).integers(0, 200, len(rows.lists_P))
    raw = np.full_like(rows.features_PF, np.nan)
    raw[:, COSINE] = near
    grades = (near > np.median(near)).astype(float)
    for features, alike in ((raw, False), (rounded(raw), True)):
        learned = replace(rows, features_PF=features, grades_P=grades)
        booster = fit(learned)
        scores = predicted(session(gbdt.to_onnx(booster)), features)
        assert np.allclose(scores, booster.predict(features), atol=1e-5) == alike
    assert np.isnan(rounded(raw[:, 1:])).all() and (rounded(raw[:, :1]) == pytest.approx(near[:, None], rel=1e-5))


@pytest.mark.parametrize(("feature", "sense"), MONOTONE.items())
def test_what_sense_demands_holds_everywhere(feature, sense):
    """Whatever was learned: here the opposite."""
    rows, _ = drawn(0)
    place = NAMES.index(feature)
    features = rows.features_PF.copy()
    features[:, place] = np.random.default_rng(3).random(len(features)) - sense * rows.grades_P
    changed = replace(rows, features_PF=features)
    model = session(gbdt.to_onnx(fit(changed)))
    steps = np.repeat(features[:50], 20, axis=0)
    steps[:, place] = np.tile(np.linspace(-2, 2, 20), 50)
    risen = np.diff(predicted(model, steps).reshape(50, 20), axis=1) * sense
    assert (risen >= -1e-6).all()


def test_the_same_seed_makes_the_same_trees():
    rows, _ = drawn(0)
    first, again, other = (gbdt.to_onnx(fit(rows, seed)) for seed in (0, 0, 1))
    assert first == again != other


def test_scores_out_of_fold_are_of_trees_that_have_not_seen_the_query():
    """Whatever became of its products, their scores are the same; and they order as well as those of other lists."""
    rows, worth = drawn(0)
    gains, folds = Ranking().gains, rows.folds(4)
    scores = gbdt.out_of_fold(rows, gains, SMALL, 4, 0)
    assert agreement(scores, worth) > 0.85
    turned = replace(rows, grades_P=np.where(folds == 2, 1 - rows.grades_P.clip(max=1), rows.grades_P))
    again = gbdt.out_of_fold(turned, gains, SMALL, 4, 0)
    assert (again[folds == 2] == scores[folds == 2]).all() and (again[folds != 2] != scores[folds != 2]).mean() > 0.9
    assert gbdt.out_of_fold(rows.only(rows.ids_PT[:, -1] == 7), gains, SMALL, 4, 0) is None
    few = rows.only(np.arange(len(rows.lists_P)) < 2.2 * SMALL.least_rows)
    fit(few)
    assert gbdt.out_of_fold(few, gains, SMALL, 4, 0) is None, "what is left of them is too little"
