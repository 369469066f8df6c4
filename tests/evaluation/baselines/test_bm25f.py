"""BM25F against its formula, and what it forgives: word forms and slips of spelling."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pyarrow as pa
import pytest

from mercato.evaluation.baselines.bm25 import BM25
from mercato.evaluation.baselines.bm25f import BM25F, DEFAULT, K1, WEIGHTS, B, FieldWeights
from mercato.evaluation.dataset import LabelledPairs
from mercato.evaluation.metrics.ndcg import ndcg
from mercato.evaluation.systems import LexicalSystem
from mercato.fields import SEARCHED


def table(*rows: dict) -> pa.Table:
    known = dict.fromkeys(("title", "description", "brand", "category", "language"))
    return pl.DataFrame([{"product_id": str(n), **known, **row} for n, row in enumerate(rows)]).to_arrow()


def titled(*titles: str, language: str | None = "en") -> pa.Table:
    return table(*({"title": title, "language": language} for title in titles))


def found(products: pa.Table, query: str, **given) -> list[int]:
    return np.flatnonzero(BM25F(products, **given).all_scores(query)).tolist()


def judged(queries: list[int], products: list[int], grades: list[float]) -> LabelledPairs:
    unknown = np.full(len(queries), np.nan)
    return LabelledPairs(
        queries=np.array(queries),
        products=np.array(products),
        grades=np.array(grades),
        split="validation",
        unknown=0,
        impressions=unknown,
        depth=unknown,
    )


# --- the formula


def test_a_word_is_weighed_by_field_and_length_and_saturates_once():
    products = table(
        {"title": "red dress", "description": "red and red again"},
        {"title": "dress"},
        {"title": "blue lamp of glass", "description": "red"},
    )
    weights = FieldWeights(
        weights={**WEIGHTS, "title": 3.0, "description": 0.5}, b={**B, "title": 0.6, "description": 0.2}
    )
    title, description = (
        1 - 0.6 + 0.6 * 2 / ((2 + 1 + 4) / 3),
        1 - 0.2 + 0.2 * 4 / ((4 + 1) / 2),
    )  # over who fills it in
    x = 3.0 / title + 0.5 * 2 / description
    idf = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    assert BM25F(products, weights).scores("red", ["0"])[0] == pytest.approx(idf * x / (K1 + x))
    assert BM25F(products, weights).scores("red red", ["0"])[0] == pytest.approx(2 * idf * x / (K1 + x))
    assert BM25F(products, weights).scores("red", ["1"])[0] == 0


def test_with_one_field_and_no_stems_it_is_bm25_but_for_the_weight():
    products = titled("red dress", "blue silk dress", "lamp", "red red lamp", language=None).select(
        ["product_id", "title"]
    )
    weights = FieldWeights(weights={**WEIGHTS, "title": 1.0}, b=B)
    for query in ("dress", "red lamp", "silk red dress"):
        ours, theirs = BM25F(products, weights).all_scores(query), BM25(products).all_scores(query)
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)


def test_a_title_counts_more_than_a_description_and_every_searched_field_is_found():
    assert set(WEIGHTS) == set(B) == set(SEARCHED)
    products = table({"title": "dress"}, {"title": "lamp", "description": "dress"}, {"title": "x", "brand": "dress"})
    scores = BM25F(products).all_scores("dress")
    assert scores[0] > scores[2] > scores[1] > 0
    attributes = pa.array([[("colour", "teal")]], pa.map_(pa.string(), pa.string()))
    assert found(titled("lamp").append_column("attributes", attributes), "teal") == [0]
    assert found(titled("lamp").append_column("attributes", attributes), "colour") == []


def test_nothing_to_index_is_no_error():
    for empty in (titled("!!", "—"), titled("!!").slice(0, 0), titled("!!").select(["product_id"])):
        assert BM25F(empty).top(["dress"], 2).tolist() == [[-1, -1]]


# --- words


def test_words_are_stemmed_by_each_products_own_language():
    products = table(
        {"title": "two dresses", "language": "en"},
        {"title": "zwei Lampen", "language": "de-AT"},
        {"title": "cámaras", "language": "es"},
        {"title": "dresses", "language": None},
        {"title": "dresses", "language": "xx"},
    )
    assert found(products, "dress") == [0]  # what is of no known language has no stems
    assert found(products, "dresses") == [0, 3, 4]
    assert found(products, "Lampe") == [1]
    assert found(products, "cámara") == [2]


def test_a_word_of_two_languages_counts_in_all_products_that_have_it():
    products = table(
        {"title": "ikea", "language": "en"}, {"title": "ikea", "language": "es"}, {"title": "sofa", "language": "en"}
    )
    idf = np.log(1 + (3 - 2 + 0.5) / (2 + 0.5))
    scores = BM25F(products).all_scores("ikea")
    assert scores[0] == scores[1] == pytest.approx(idf * 4 / (K1 + 4)) and scores[2] == 0


@pytest.mark.parametrize(
    ("title", "query"),
    [
        ("lamp", "lmap"),  # neighbours swapped: one edit
        ("lamp", "lanp"),
        ("headphone", "hedphne"),  # one edit is allowed of seven letters, and this is two
        ("headphone", "headfone"),  # two edits of eight letters
        ("lamps", "lmap"),  # two from the word as it is spelled
    ],
)
def test_an_unknown_word_stands_for_those_spelled_most_alike(title, query):
    forgiven = {("lamp", "lmap"), ("lamp", "lanp"), ("headphone", "headfone")}
    assert found(titled(title, "sofa"), query) == ([0] if (title, query) in forgiven else [])


@pytest.mark.parametrize(
    ("title", "query"),
    [
        ("lamp", "camp"),  # another first letter
        ("fan", "fam"),  # three letters
        ("iphone 12s", "13s"),
        ("mx4500", "mx4510"),  # a number is no slip
        ("chandelier", "chanelieres"),  # three edits
    ],
)
def test_what_is_not_forgiven(title, query):
    assert found(titled(title), query) == []


def test_a_known_word_is_never_taken_for_a_slip_and_of_slips_the_nearest_is_meant():
    products = titled("desk", "disk", "cabinets", "cabernets")
    assert found(products, "desk") == [0]
    assert found(products, "desks") == [0]  # known by its stem
    assert found(products, "dask") == [0, 1]  # as near as each other
    assert found(products, "cabinests") == [2]  # one edit; two for the other
    both = titled("desk disk", "lamp", "lamp")
    idf = np.log(1 + (3 - 1 + 0.5) / (1 + 0.5))
    x = 4.0 * 2 / (1 - 0.75 + 0.75 * 2 / (4 / 3))
    assert BM25F(both).all_scores("dask")[0] == pytest.approx(idf * x / (K1 + x))


# --- tuning


def description_matters() -> tuple[pa.Table, list[str], LabelledPairs]:
    """What raters like has the word in its description, what they do not in its title."""
    rows = [{"title": "lamp", "description": f"{word} {word}"} for word in ("red", "blue")]
    rows += [{"title": word, "description": "lamp"} for word in ("red", "blue")]
    return table(*rows), ["red", "blue"], judged([0, 0, 1, 1], [0, 2, 1, 3], [1, 0, 1, 0])


def test_weights_are_those_of_the_best_ndcg_on_the_given_pairs():
    products, texts, pairs = description_matters()
    bm25f = BM25F(products)
    assert bm25f.scores("red", ["0"]) < bm25f.scores("red", ["2"])
    tuning = bm25f.tune(texts, pairs)
    assert tuning.untuned_ndcg == pytest.approx(1 / np.log2(3)) and tuning.tuned_ndcg == 1
    assert bm25f.scores("red", ["0"]) > bm25f.scores("red", ["2"])  # what was asked for before is scored anew
    assert tuning.weights == {field: bm25f.weights.weights[field] for field in bm25f.index.fields}
    assert tuning.b == {field: bm25f.weights.b[field] for field in bm25f.index.fields}
    assert (tuning.queries, tuning.pairs, tuning.split) == (2, 4, "validation")
    again = BM25F(products)
    assert again.tune(texts, pairs) == tuning and again.weights == bm25f.weights


def test_the_ndcg_that_is_tuned_is_that_of_the_scores():
    products, texts, pairs = description_matters()
    more = pl.DataFrame({"product_id": ["4", "5"], "title": ["red shawl", "a blue thing"]})
    products = pl.concat([pl.DataFrame(products), more], how="diagonal_relaxed").to_arrow()
    pairs = judged([0, 0, 0, 1, 1], [0, 2, 4, 5, 3], [0, 1, 0.5, 1, 0])
    bm25f = BM25F(products)
    tuning = bm25f.tune(texts, pairs)
    for weights, expected in ((DEFAULT, tuning.untuned_ndcg), (bm25f.weights, tuning.tuned_ndcg)):
        scores_P = LexicalSystem(BM25F(products, weights), texts).score(pairs.queries, pairs.products)
        assert np.mean(ndcg(pairs.groups, pairs.grades, scores_P, 10)) == pytest.approx(expected)


def test_where_nothing_tells_weights_apart_they_stay():
    products, texts, pairs = description_matters()
    bm25f = BM25F(products)
    assert bm25f.tune(texts, replace(pairs, grades=np.zeros(4))) is None
    assert bm25f.tune(texts, replace(pairs, grades=np.ones(4))) is None, "any order of what was engaged is the best"
    assert bm25f.weights == DEFAULT


def test_no_weight_becomes_zero_whatever_the_pairs_say():
    """One query whose every match is bad must not leave an engine that finds nothing."""
    products = titled("red lamp", "sofa", "red")
    bm25f = BM25F(products)
    bm25f.tune(["red"], judged([0, 0, 0], [0, 1, 2], [0, 1, 0]))
    assert bm25f.top(["red"], 3).min(axis=1).tolist() == [-1] and sorted(bm25f.top(["red"], 2)[0].tolist()) == [0, 2]
