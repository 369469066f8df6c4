"""The network: what it learns of features and ids, that its chances are chances, and that ONNX has the same."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from mercato.config.ranking import DLRM
from mercato.ranking import dlrm
from mercato.ranking.features import IDS, NAMES
from mercato.ranking.ranker import buckets, chances, session
from tests.support.clicks import LISTS, PRICE, SHOWN, agreement, drawn

SMALL = DLRM(buckets=512, epochs=40, batch_size=256, learning_rate=3e-3)


def further(rows):
    """Everything is clicked, and what was clicked before goes a step further: the step that the network tells alone."""
    return replace(rows, grades_P=1.0 + (rows.grades_P >= 1))


def fitted(rows, settings=SMALL, seed=0):
    return dlrm.fit(rows, np.zeros(len(rows.grades_P), np.float32), 2, settings, seed)


def chances_of(network, rows, scores=None):
    scores = np.zeros(len(rows.grades_P), np.float32) if scores is None else scores
    with torch.inference_mode():
        return network(*dlrm.inputs(rows, scores, SMALL)).numpy()


@pytest.fixture(scope="module")
def learned():
    return fitted(further(drawn(0)[0]))


def test_it_learns_how_far_people_go(learned):
    others, worth = drawn(1)
    assert agreement(chances_of(learned, others)[:, 1], worth) > 0.85


def test_its_chances_are_those_of_other_lists(learned):
    """Of each step, in all and among the fifth that it thinks most of; a deeper step is never likelier."""
    others, _ = drawn(1)
    told = chances_of(learned, others)
    assert told.shape == (LISTS * SHOWN, 2) and (np.diff(told, axis=1) <= 0).all()
    reached = further(others).grades_P[:, None] >= [1, 2]
    best = told[:, 1] > np.quantile(told[:, 1], 0.8)
    for some in (slice(None), best):
        np.testing.assert_allclose(told[some].mean(axis=0), reached[some].mean(axis=0), atol=0.05)


def epochs_of(count):
    return SMALL.model_copy(update={"epochs": count, "patience": count})


def test_it_tells_products_apart_that_no_feature_does():
    """By their ids; one that it has not met is as the average."""

    def liked(product):
        return np.where(product % 2, 0.4, -0.4)

    rows, _ = drawn(0, liked=liked)
    others, worth = drawn(1, liked=liked)
    network = fitted(further(rows), epochs_of(30))
    unknown = replace(others, ids_PT=np.zeros_like(others.ids_PT))
    with_ids, without = (chances_of(network, each)[:, 1] for each in (others, unknown))
    assert agreement(with_ids, worth) > agreement(without, worth) + 0.05
    odd = others.ids_PT[:, IDS.index("product_id")] % np.uint64(2) == 1
    assert with_ids[odd].mean() > without.mean() > with_ids[~odd].mean()


def test_the_first_step_is_stage_1_s_and_its_chance_that_of_a_first_place():
    """The dear ones stand mostly first, and the last are hardly looked at."""
    rows, said = drawn(0, examined=lambda position: position**-1.5, by_price=True)
    others, worth = drawn(1)
    blind = replace(rows, positions_P=np.ones_like(rows.positions_P))
    scores, other_scores = (each.reshape(-1).astype(np.float32) for each in (said, worth))
    with_positions, without = (dlrm.fit(each, scores, 2, SMALL, 0) for each in (rows, blind))
    told = chances_of(with_positions, others, other_scores)[:, 0]
    assert agreement(told, worth) == 1
    assert told.mean() == pytest.approx((others.grades_P >= 1).mean(), abs=0.05)
    assert chances_of(without, others, other_scores)[:, 0].mean() < 0.7 * told.mean()
    elsewhere = replace(others, features_PF=others.features_PF + 1, ids_PT=others.ids_PT + np.uint64(1))
    np.testing.assert_array_equal(chances_of(with_positions, elsewhere, other_scores)[:, 0], told)


def test_the_first_step_stays_as_it_was_calibrated_while_the_rest_learns():
    """And so does the position's part."""
    rows, worth = drawn(0)
    further_by_price = (rows.grades_P >= 1) * (1.0 + (rows.features_PF[:, PRICE] > 0.5))
    rows, said = replace(rows, grades_P=further_by_price), worth.reshape(-1).astype(np.float32)
    short, long = (dlrm.fit(rows, said, 2, epochs_of(count), 0) for count in (1, 10))
    (first, second), (same, learned) = (chances_of(network, rows, said).T for network in (short, long))
    np.testing.assert_array_equal(first, same)
    assert torch.equal(short.eta_root, long.eta_root) and np.abs(second - learned).max() > 0.05


def test_stage_1_is_heard_of_every_step():
    """Where nothing but its score tells."""
    rows, worth = drawn(0)
    said = worth.reshape(-1).astype(np.float32)
    silent = replace(further(rows), features_PF=np.full_like(rows.features_PF, np.nan))
    network = dlrm.fit(silent, said, 2, SMALL, 0)
    assert agreement(chances_of(network, silent, said)[:, 1], worth) > 0.85


def test_onnx_has_the_chances_of_torch(learned):
    """Of rows of any numbers, and of none."""
    random = np.random.default_rng(2)
    wild = (random.normal(size=(300, len(NAMES) + 1)) * 10.0 ** random.integers(-6, 7, (300, 1))).astype(np.float32)
    wild[random.random(wild.shape) < 0.3] = np.nan
    keys = random.integers(0, 2**63, (300, len(IDS)), np.uint64) * (random.random((300, len(IDS))) < 0.8)
    ids = buckets(keys.astype(np.uint64), SMALL.buckets)
    assert ids.min() == 0 and ids.max() < SMALL.buckets and (ids[keys > 0] > 0).all()
    model = session(dlrm.to_onnx(learned))
    for count in (300, 1, 0):
        with torch.inference_mode():
            expected = learned(torch.from_numpy(wild[:count]), torch.from_numpy(ids[:count])).numpy()
        np.testing.assert_allclose(chances(model, wild[:count], ids[:count]), expected, atol=1e-5)
        assert np.isfinite(expected).all()


def test_epochs_that_only_learn_by_heart_are_not_run():
    """Of steps that nothing explains: the fold that is held out says so."""
    rows, _ = drawn(0)
    random = np.random.default_rng(5)
    noise = replace(rows, grades_P=random.integers(1, 3, len(rows.grades_P)).astype(float))
    told = chances_of(fitted(noise, epochs_of(20).model_copy(update={"patience": 2})), noise)[:, 1]
    assert told.std() < 0.1


def test_the_same_seed_makes_the_same_network(learned):
    rows = further(drawn(0)[0])
    before = torch.random.get_rng_state()
    again, other = fitted(rows), fitted(rows, seed=1)
    assert torch.equal(torch.random.get_rng_state(), before)
    same, different = (chances_of(network, rows) for network in (again, other))
    assert (chances_of(learned, rows) == same).all() and (same != different).any()


def test_what_it_has_not_learned_of_changes_nothing():
    """A feature that was never known, and one that was always the same, whatever they are when it serves."""
    rows = further(drawn(0)[0])
    features = rows.features_PF.copy()
    features[:, PRICE] = 3.0
    network = fitted(replace(rows, features_PF=features), epochs_of(5))
    told = chances_of(network, replace(rows, features_PF=features))
    later = features.copy()
    later[:, [PRICE, NAMES.index("distance_km")]] = np.random.default_rng(3).random((len(features), 2))
    np.testing.assert_array_equal(chances_of(network, replace(rows, features_PF=later)), told)
    assert np.isfinite(told).all() and told[:, 1].std() > 0.05
