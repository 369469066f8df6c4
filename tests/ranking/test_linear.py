"""Stage 1 by judgments: what single judged products teach, and that ONNX scores as numpy does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from mercato.ranking import linear
from mercato.ranking.dataset import RankingSet
from mercato.ranking.features import IDS, MONOTONE, NAMES
from mercato.ranking.ranker import predicted, session

COSINE, COVERAGE = NAMES.index("cosine"), NAMES.index("coverage")
GAINS = [0.0, 0.4, 1.0]


def judged(seed, sizes=(1,) * 400):
    """Products judged by their cosine and, half as much, the words they hold, in lists of these sizes."""
    random = np.random.default_rng(seed)
    rows = sum(sizes)
    features = np.full((rows, len(NAMES)), np.nan, np.float32)
    features[:, COSINE], features[:, COVERAGE] = random.random((2, rows))
    worth = features[:, COSINE] + features[:, COVERAGE] / 2
    grades = np.digitize(worth + 0.2 * random.normal(size=rows), [0.6, 0.9]).astype(float)
    ids = np.zeros((rows, len(IDS)), np.uint64)
    return RankingSet(features, ids, grades, np.zeros(rows, np.int64), np.repeat(np.arange(len(sizes)), sizes)), worth


def test_single_judged_products_teach():
    """Though no list of them says that one is better than another."""
    learned, _ = judged(0)
    others, worth = judged(1)
    assert not learned.tells_apart
    found = linear.fit(learned, GAINS).predict(others.features_PF)
    by_cosine, by_both = (np.corrcoef(scores, worth)[0, 1] for scores in (others.features_PF[:, COSINE], found))
    assert by_both > 0.96 > 0.91 > by_cosine


def test_few_judgments_leave_the_order_of_the_cosine_as_it_is():
    few, many = (linear.fit(judged(0, (1,) * count)[0], GAINS).weights_F for count in (20, 4000))
    assert 0 < few[COVERAGE] < 0.1 * few[COSINE]
    assert 0.4 * many[COSINE] < many[COVERAGE] < 0.6 * many[COSINE]


def test_scores_are_log_odds_of_the_share_of_the_most_worth():
    learned, _ = judged(0)
    told = 1 / (1 + np.exp(-linear.fit(learned, [0, 1.2, 3]).predict(learned.features_PF)))
    assert told.mean() == pytest.approx(np.array([0, 0.4, 1])[learned.grades_P.astype(int)].mean(), abs=1e-3)
    moved = linear.fit(learned, [1, 2.2, 4])
    np.testing.assert_allclose(moved.predict(learned.features_PF), np.log(told / (1 - told)), atol=1e-4)


def test_a_query_weighs_one_however_many_of_its_products_were_judged():
    """A thousand judgments of one query, all the other way round, against four hundred queries of one."""
    learned, _ = judged(0, (*(1,) * 400, 1000))
    turned = np.where(learned.lists_P == 400, 2 - learned.grades_P, learned.grades_P)
    weights = linear.fit(replace(learned, grades_P=turned), GAINS).weights_F
    assert weights[COSINE] > 1 and weights[COVERAGE] > 0.1


def test_what_sense_demands_holds_whatever_was_learned():
    learned, _ = judged(0)
    for name in {*MONOTONE} & linear.READ:
        place = NAMES.index(name)
        features = learned.features_PF.copy()
        features[:, place] = -MONOTONE[name] * learned.grades_P
        assert linear.fit(replace(learned, features_PF=features), GAINS).weights_F[place] == 0


def test_what_is_of_the_query_or_the_product_alone_is_not_read():
    """Here it tells the grade, as it does where what is judged was chosen by it."""
    learned, _ = judged(0)
    chosen = [NAMES.index(name) for name in ("query_words", "title_words", "missing", "rating", "product_coec")]
    features = learned.features_PF.copy()
    features[:, chosen] = learned.grades_P[:, None]
    model = linear.fit(replace(learned, features_PF=features), GAINS)
    assert np.flatnonzero(model.weights_F).tolist() == sorted([COSINE, COVERAGE])
    assert {"bm25", "coverage_title", "trigram_similarity", "numbers_contradicted", "negated_matched"} < linear.READ


def test_what_is_unknown_or_always_alike_tells_nothing():
    learned, _ = judged(0)
    features = learned.features_PF.copy()
    alike, never = NAMES.index("bigrams_title"), NAMES.index("numbers_matched")
    features[:, alike] = 3.0
    with np.errstate(all="raise"):  # no division by nothing
        model = linear.fit(replace(learned, features_PF=features), GAINS)
        asked = features[:2].copy()
        asked[1, COVERAGE] = np.nan
        assert np.isfinite(model.predict(asked)).all() and model.parts(asked)[1, COVERAGE] == 0
        other = asked.copy()
        other[:, [alike, never]] = 9.0
        np.testing.assert_array_equal(model.predict(other), model.predict(asked))


def test_onnx_scores_as_it_was_trained_to():
    """Rows of any numbers, those beyond what was learned, and none."""
    learned, _ = judged(0)
    model = linear.fit(learned, GAINS)
    served = session(model.to_onnx())
    random = np.random.default_rng(2)
    shape = (500, len(NAMES))
    wild = (random.normal(size=shape) * 10.0 ** random.integers(-6, 7, shape)).astype(np.float32)
    wild[random.random(shape) < 0.3] = np.nan
    wild[:4] = [[0.0], [np.nan], [np.inf], [-np.inf]]
    for rows in (learned.features_PF, wild):
        assert np.isfinite(model.predict(rows)).all()
        np.testing.assert_allclose(predicted(served, rows), model.predict(rows), atol=1e-5)
    assert predicted(served, wild[:0]).shape == (0,)
