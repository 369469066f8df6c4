"""Batch recall, KNN recall and the BM25 baseline."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.evaluation.baselines.bm25 import BM25, words
from mercato.evaluation.exact_search import nearest
from mercato.evaluation.metrics.batch_recall import batch_recall, draw_batches
from mercato.evaluation.metrics.knn import mean_knn_precision, mean_knn_recall, ranks, recall_and_precision
from mercato.evaluation.metrics.metric import RetrievedPairs


def _unit(rng: np.random.Generator, *shape: int) -> np.ndarray:
    vectors = rng.standard_normal(shape).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_batch_recall_by_definition():
    rng = np.random.default_rng(0)
    queries, products = _unit(rng, 60, 8), _unit(rng, 60, 8)
    scores = queries @ products.T
    for k in (1, 5, 60):
        expected = np.mean([i in np.argsort(-scores[i])[:k] for i in range(60)])
        assert batch_recall(queries, products, k) == pytest.approx(expected)
    assert batch_recall(queries, queries, 1) == 1
    assert batch_recall(queries, products) == batch_recall(queries, products, 1)
    assert np.isnan(batch_recall(queries[:0], products[:0]))


def test_a_constant_encoder_has_no_batch_recall():
    same = np.full((50, 4), 0.5, dtype=np.float32)
    assert batch_recall(same, same, 1) == 0
    assert batch_recall(same, same, 10) == 0


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), max_size=60), st.integers(1, 7), st.integers(0, 3))
def test_batches_repeat_no_query_and_no_product(pairs, size, seed):
    queries, products = (np.array([pair[side] for pair in pairs], dtype=np.int64) for side in (0, 1))
    batches = draw_batches(queries, products, seed, size)
    for batch in batches:
        assert 0 < len(batch) <= size
        assert len(set(queries[batch])) == len(set(products[batch])) == len(batch)
    assert bool(batches) == bool(pairs)
    if batches:
        assert max(map(len, batches)) - min(map(len, batches)) <= 1
    again = draw_batches(queries, products, seed, size)
    assert all(np.array_equal(one, other) for one, other in zip(batches, again, strict=True))


def test_nearest_is_exact_and_recall_counts_the_found():
    rng = np.random.default_rng(1)
    queries, products = _unit(rng, 20, 16), _unit(rng, 300, 16)
    top = nearest(queries, products, 100)
    np.testing.assert_array_equal(top, np.argsort(-(queries @ products.T), axis=1)[:, :100])
    # query 0 wants its 1st and 11th neighbour (given twice: it is one wish), query 1 wants its 1st alone
    groups, wanted = np.array([0, 0, 0, 1]), np.array([top[0, 0], top[0, 10], top[0, 10], top[1, 0]])
    recall, precision = recall_and_precision(top[:3], groups, wanted, 300, 10)
    np.testing.assert_allclose(recall, [0.5, 1.0, np.nan])
    np.testing.assert_allclose(precision, [0.1, 0.1, 0.0])
    np.testing.assert_allclose(recall_and_precision(top[:2], groups, wanted, 300, 100)[0], [1, 1])


def test_the_first_product_of_the_table_counts_as_found_and_an_empty_place_never():
    top, groups = np.array([[0, -1], [-1, 0]]), np.array([0, 1])
    recall, precision = recall_and_precision(top, groups, np.array([0, 0]), catalogue=1, k=1)
    assert recall.tolist() == [1, 0] and precision.tolist() == [1, 0]


def test_recall_and_precision_of_ranks_are_those_of_the_lists():
    rng = np.random.default_rng(3)
    top = np.stack([rng.permutation(50)[:20] for _ in range(12)])
    top[rng.random(top.shape) < 0.1] = -1
    groups, products = np.divmod(rng.permutation(12 * 50)[:200], 50)
    found = RetrievedPairs(groups_P=groups, ranks_P=ranks(top, groups, products), depth=20)
    assert {*groups.tolist()} == {*range(12)} and (found.ranks_P == -1).any()
    for k in (1, 7, 20):
        recall, precision = recall_and_precision(top, groups, products, 50, k)
        assert mean_knn_recall(k)(found)(np.eye(12)).tolist() == recall.tolist()
        assert mean_knn_precision(k)(found)(np.eye(12)).tolist() == precision.tolist()
    for statistic in (mean_knn_recall(21), mean_knn_precision(21)):
        assert np.isnan(statistic(found)(np.ones((1, 12)))).all(), "nobody asked for so many"


def test_equal_vectors_do_not_come_back_in_table_order():
    same = np.full((1000, 4), 0.5, dtype=np.float32)
    top = nearest(same[:1], same, 100)
    assert len(set(top[0])) == 100
    assert 300 < top.mean() < 700


def test_a_small_catalogue_leaves_empty_places():
    vectors = _unit(np.random.default_rng(2), 3, 4)
    top = nearest(vectors[:1], vectors, 5)
    assert sorted(top[0]) == [-1, -1, 0, 1, 2]
    recall, _ = recall_and_precision(top, np.array([0]), np.array([2]), 3, 5)
    assert recall == [1.0]


@pytest.fixture
def catalogue() -> pa.Table:
    return pl.DataFrame(
        {
            "product_id": ["a", "b", "c", "d"],
            "title": ["Red dress", "Vestido rojo", "Красное платье", "Lamp"],
            "description": ["long summer dress", None, None, None],
            "brand": [None, None, None, "Lumen"],
        }
    ).to_arrow()


def test_bm25_finds_shared_words_in_any_language_and_field(catalogue):
    bm25 = BM25(catalogue)
    assert bm25.top(["a RED dress", "vestido", "платье красное", "lumen", "nothing of it", ""], 3).tolist() == [
        [0, -1, -1],
        [1, -1, -1],
        [2, -1, -1],
        [3, -1, -1],
        [-1, -1, -1],
        [-1, -1, -1],
    ]
    assert (bm25.scores("dress", ["b", "c", "d"]) == 0).all()
    with pytest.raises(KeyError):
        bm25.scores("dress", ["missing"])


def test_bm25_follows_lucenes_formula(catalogue):
    length = len(words("Red dress long summer dress"))
    mean = (length + 2 + 2 + 2) / 4
    idf = np.log(1 + (4 - 1 + 0.5) / (1 + 0.5))
    expected = idf * 2 / (2 + 1.2 * (1 - 0.75 + 0.75 * length / mean))
    assert BM25(catalogue).scores("dress", ["a"])[0] == pytest.approx(expected, rel=1e-5)


def test_bm25_survives_products_without_a_word():
    empty = pl.DataFrame({"product_id": ["a", "b"], "title": ["!!", "—"]}).to_arrow()
    assert BM25(empty).top(["dress"], 2).tolist() == [[-1, -1]]
    assert BM25(empty.slice(0, 0)).top(["dress"], 2).tolist() == [[-1, -1]]
