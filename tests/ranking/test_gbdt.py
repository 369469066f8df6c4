"""The trees: what they learn, and that ONNX scores as LightGBM does."""

from __future__ import annotations

import numpy as np
import pytest

from mercato.config.ranking import Trees
from mercato.ranking import gbdt
from mercato.ranking.dataset import RankingSet
from mercato.ranking.features import MONOTONE, NAMES, rounded
from mercato.ranking.ranker import predicted, session

COSINE, PRICE, CONTRADICTED = (NAMES.index(name) for name in ("cosine", "price", "numbers_contradicted"))
SMALL = Trees(trees=100, leaves=7, least_rows=20)
LISTS, SHOWN = 600, 8


def drawn(seed, examined=lambda position: 1.0, by_price=False):
    """Lists in which worth is the cosine less the price, and a product is clicked if it is worth it and looked at."""
    random = np.random.default_rng(seed)
    rows = np.full((LISTS, SHOWN, len(NAMES)), np.nan, np.float32)
    rows[..., COSINE] = random.random((LISTS, SHOWN))
    rows[..., PRICE] = random.random((LISTS, SHOWN))
    rows[..., CONTRADICTED] = random.random((LISTS, SHOWN)) < 0.2
    worth = rows[..., COSINE] - rows[..., PRICE]
    shown_by = 0.4 * random.normal(size=(LISTS, SHOWN)) + by_price * rows[..., PRICE]
    positions = np.argsort(np.argsort(-shown_by, axis=1), axis=1) + 1
    looked = random.random((LISTS, SHOWN)) < examined(positions)
    clicked = (random.random((LISTS, SHOWN)) < 1 / (1 + np.exp(-6 * worth))) & looked
    lists = np.repeat(np.arange(LISTS), SHOWN)
    return RankingSet(
        rows.reshape(-1, len(NAMES)), clicked.reshape(-1).astype(float), positions.reshape(-1), lists
    ), worth


def fit(rows, seed=0):
    return gbdt.fit(rows, SMALL.gains, SMALL, seed)


def agreement(model, rows, worth):
    """How often of two products of a list the one that is worth more scores higher."""
    scores = predicted(model, rows.features_PF).reshape(LISTS, SHOWN)
    first, second = np.triu_indices(SHOWN, 1)
    same = (scores[:, first] > scores[:, second]) == (worth[:, first] > worth[:, second])
    return same.mean()


def test_trees_learn_what_is_clicked():
    rows, _ = drawn(0)
    others, worth = drawn(1)
    model = session(gbdt.to_onnx(fit(rows)))
    assert agreement(model, others, worth) > 0.85


def test_the_position_is_no_merit():
    """The dear ones stand mostly first, and the last are hardly looked at: blind to that, the trees believe these."""
    rows, _ = drawn(0, examined=lambda position: position**-1.5, by_price=True)
    others, worth = drawn(1)
    blind = RankingSet(rows.features_PF, rows.grades_P, np.ones_like(rows.positions_P), rows.lists_P)
    with_positions, without = (agreement(session(gbdt.to_onnx(fit(each))), others, worth) for each in (rows, blind))
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
        learned = RankingSet(features, grades, rows.positions_P, rows.lists_P)
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
    changed = RankingSet(features, rows.grades_P, rows.positions_P, rows.lists_P)
    model = session(gbdt.to_onnx(fit(changed)))
    steps = np.repeat(features[:50], 20, axis=0)
    steps[:, place] = np.tile(np.linspace(-2, 2, 20), 50)
    risen = np.diff(predicted(model, steps).reshape(50, 20), axis=1) * sense
    assert (risen >= -1e-6).all()


def test_the_same_seed_makes_the_same_trees():
    rows, _ = drawn(0)
    first, again, other = (gbdt.to_onnx(fit(rows, seed)) for seed in (0, 0, 1))
    assert first == again != other
