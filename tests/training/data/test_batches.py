from __future__ import annotations

from dataclasses import replace

import numpy as np
import polars as pl
import pytest
import torch

from mercato.config import Recipe, Stage
from mercato.features.featurizer import FeatureSpec, Featurizer
from mercato.features.tokenizer import train_tokenizer
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.models.build import build_towers, text_configs
from mercato.models.que2search import TwoTower
from mercato.training.data.batches import Batches, Examples, index_of, take, tensors
from tests.support.toys import toy_recipe

CHANNELS = ("title_text", "title_trigrams", "description_text", "images")
WORDS = ["red sofa", "blue chair with a long name", "x", "wooden table", "lamp"]


@pytest.fixture(scope="module")
def spec() -> FeatureSpec:
    return FeatureSpec(
        query_channels=("text", "trigrams"), product_channels=CHANNELS, pad_id=0, vocabulary=80, buckets=99,
        query_tokens=8, query_characters=20, title_tokens=8, description_tokens=8, countries=(), languages=(),
        max_images=2, image_dimension=3,
    )  # fmt: skip


@pytest.fixture(scope="module")
def tables(spec):
    featurizer = Featurizer(spec, train_tokenizer(WORDS, 80))
    products = [{"title": f"{word} new", "description": word} for word in WORDS]
    images = [np.full((1 + i % 2, 3), float(i), np.float32) for i in range(5)]
    return featurizer.queries(WORDS, [None] * 5), featurizer.products(products, images)


@pytest.fixture(scope="module")
def towers(spec) -> TwoTower:
    recipe: Recipe = toy_recipe()
    recipe = recipe.model_copy(
        update={
            "query_tower": recipe.query_tower.model_copy(update={"channels": spec.query_channels}),
            "product_tower": recipe.product_tower.model_copy(update={"channels": spec.product_channels}),
        }
    )
    torch.manual_seed(0)
    return build_towers(recipe, spec, text_configs(recipe, spec)).eval()


def examples(tables, spec, pairs, withhold=None, withheld=((),)) -> Examples:
    query, product = np.array(pairs).T
    kind = np.zeros(len(pairs), np.int64) if withhold is None else np.array(withhold)
    return Examples(
        *tables, spec, query, product, kind, list(withheld),
        np.ones(len(pairs), np.float32), np.ones(len(pairs), bool),
    )  # fmt: skip


PAIRS = [(0, 0), (1, 1), (0, 2), (1, 1), (3, 2), (4, 4)]


def test_only_negatives_are_negatives(tables, spec):
    excluded = examples(tables, spec, PAIRS).batch(np.arange(6)).excluded_BC.numpy()
    known = set(PAIRS)
    for i, (query, _) in enumerate(PAIRS):
        for j, (_, product) in enumerate(PAIRS):
            assert excluded[i, j] == (i != j and (query, product) in known), (i, j)


def test_a_positive_outside_the_batch_is_known_too(tables, spec):
    batch = examples(tables, spec, PAIRS).batch(np.array([0, 4]))  # (0, 0) and (3, 2); (0, 2) is elsewhere
    assert batch.excluded_BC.tolist() == [[False, True], [False, False]]


def test_distinct_encoding_is_the_naive_loss(tables, spec, towers):
    data = examples(tables, spec, PAIRS, [0, 1, 0, 0, 1, 1], [(), ("title",)])
    batch = data.batch(np.arange(6))
    assert len(batch.query_B) == 6 and len(next(iter(batch.query.values()))) == 4
    assert len(next(iter(batch.product.values()))) == 6  # 1 and 2 both hidden and whole
    query = towers.query(batch.query)[0][batch.query_B]
    product = towers.product(batch.product)[0][batch.product_B]
    loss = in_batch_softmax(query @ product.T, batch.excluded_BC, 20)
    one_by_one = [data.batch(np.array([row])) for row in range(6)]
    naive_query = torch.cat([towers.query(one.query)[0] for one in one_by_one])
    naive_product = torch.cat([towers.product(one.product)[0] for one in one_by_one])
    naive = in_batch_softmax(naive_query @ naive_product.T, batch.excluded_BC, 20)
    torch.testing.assert_close(loss, naive)


def test_what_is_withheld_is_hidden_in_that_pair_alone(tables, spec):
    whole = {name: array.copy() for name, array in tables[1].items()}
    data = examples(tables, spec, [(0, 1), (2, 1), (3, 3)], [1, 0, 2], [(), ("title",), ("images", "description")])
    batch = data.batch(np.arange(3))
    rows = {name: array[batch.product_B] for name, array in batch.product.items()}
    assert not rows["title_tokens"][0].any() and not rows["title_trigrams"][0].any()
    assert rows["description_tokens"][0].any() and rows["image_mask"][0].any()
    assert rows["title_tokens"][1].any() and rows["title_trigrams"][1].any()
    assert rows["title_tokens"][2].any()
    assert not rows["description_tokens"][2].any() and not rows["image_mask"][2].any()
    assert all(np.array_equal(tables[1][name], whole[name]) for name in whole), "the table stays whole"


def test_the_other_instance_of_a_withheld_product_is_no_negative_of_its_pair(tables, spec):
    """Else the pair would be taught that its own title is wrong, or could read it there."""
    data = examples(tables, spec, [(0, 1), (2, 1)], [1, 0], [(), ("title",)])
    assert data.batch(np.arange(2)).excluded_BC.tolist() == [[False, True], [True, False]]


def test_trimming_changes_no_vector(tables, spec, towers):
    for name, table, tower in (("query", tables[0], towers.query), ("product", tables[1], towers.product)):
        whole = tower(tensors(table))[0]
        for row in range(5):
            part = take(table, np.array([row]), spec)
            torch.testing.assert_close(tower(tensors(part))[0][0], whole[row], atol=1e-5, rtol=0, msg=name)
    assert (
        take(tables[1], np.array([2]), spec)["description_tokens"].shape[1] < tables[1]["description_tokens"].shape[1]
    )


class Rows(Examples):
    """Batches that only say which pairs they hold."""

    def batch(self, rows, *_):
        return rows.tolist()


def order(data: Examples, seed: int, epoch: int) -> list[int]:
    batches = Batches(data, data.engaged, Stage(batch_size=2), seed)
    batches.epoch = epoch
    return [row for batch in batches for row in batch]


def test_the_order_is_of_seed_and_epoch_alone(tables, spec):
    query, product = np.array(PAIRS * 3).T
    everywhere = np.ones(len(query), bool)
    data = Rows(*tables, spec, query, product, 0 * query, [()], everywhere.astype(np.float32), everywhere)
    first = order(data, 1, 0)
    torch.manual_seed(9)
    assert order(data, 1, 0) == first
    assert order(data, 1, 1) != first and order(data, 2, 0) != first
    assert sorted(order(data, 1, 1)) == sorted(first) == list(range(18))


def test_batches_are_even(tables, spec):
    data = examples(tables, spec, PAIRS)
    assert [len(batch.query_B) for batch in Batches(data, data.engaged, Stage(batch_size=4), 0)] == [3, 3]
    assert len(Batches(data, data.engaged, Stage(batch_size=4), 0)) == 2


def test_half_precision_photos_become_whole(tables):
    assert tensors({"images": np.ones((1, 2), np.float16)})["images"].dtype == torch.float32
    assert tensors({"ids": np.ones((1, 2), np.int32)})["ids"].dtype == torch.int64


def test_index_of():
    table = pl.DataFrame({"a": ["x", None, "y", "x"], "b": [1, 1, None, 1]})
    frame = pl.DataFrame({"a": ["y", "x", "z", None], "b": [None, 1, 1, 1]}, schema=table.schema)
    assert index_of(frame, table, ["a", "b"]).tolist() == [2, 0, -1, 1]


def test_misspelled_queries_are_read_but_change_no_pair(tables, spec):
    """Queries 3 and 4 stand as the slips of 0 and 1: a batch reads them, and excludes what the true queries know."""
    slips = np.array([[3], [4], [2], [3], [4]])
    query, product = np.array([(0, 0), (1, 1), (0, 2)]).T
    kind = np.zeros(3, np.int64)
    rows = np.arange(3)
    data = Examples(
        *tables, spec, query, product, kind, [()], np.ones(len(query), np.float32), np.ones(len(query), bool),
        slips, misspelled=0.999999,
    )  # fmt: skip
    slipped, plain = data.batch(rows, np.random.default_rng(0)), data.batch(rows)
    read = take(tables[0], np.array([3, 4]), spec)
    assert all(torch.equal(slipped.query[name], tensors(read)[name]) for name in read)
    assert torch.equal(slipped.excluded_BC, plain.excluded_BC)
    assert not all(torch.equal(slipped.query[name], plain.query[name]) for name in read)


def test_pairs_are_drawn_by_their_weight(tables, spec):
    data = replace(examples(tables, spec, PAIRS), weight_N=np.array([1.0, 4, 9, 1, 1, 1]), weight_power=0.5)
    drawn = data.pool(np.array([0, 1, 2])).draw(6_000, np.random.default_rng(0))
    assert np.bincount(drawn, minlength=6) / 1_000 == pytest.approx([1, 2, 3, 0, 0, 0], rel=0.1)
    alike = replace(data, weight_power=0.0).pool(np.array([1, 5])).draw(1_000, np.random.default_rng(0))
    assert np.bincount(alike, minlength=6) / 500 == pytest.approx([0, 1, 0, 0, 0, 1], rel=0.1)
