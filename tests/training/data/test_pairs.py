"""Which pairs train, and how old their listings were."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.config.stages import CoSENT
from mercato.data.market import Market
from mercato.data.schema import LISTS
from mercato.errors import MercatoError
from mercato.training.data.pairs import index_of
from mercato.training.data.prepare import prepare
from tests.support.toys import make_market, pairs, products, toy_recipe


def test_index_of():
    table = pl.DataFrame({"a": ["x", None, "y", "x"], "b": [1, 1, None, 1]})
    frame = pl.DataFrame({"a": ["y", "x", "z", None], "b": [None, 1, 1, 1]}, schema=table.schema)
    assert index_of(frame, table, ["a", "b"]).tolist() == [2, 0, -1, 1]


def test_a_graded_stage_reads_every_pair_and_an_in_batch_stage_the_engaged(toys, tmp_path):
    graded = prepare(toys, toy_recipe("stages.0.loss=cosent"), tmp_path).examples
    plain = prepare(toys, toy_recipe(), tmp_path).examples
    table = toys.frame("pairs").filter(pl.col("split") == "train")
    assert len(graded) == len(table) and len(graded.engaged) == len(plain) == int((table["label"] == 1).sum())
    assert graded.grade_N.tolist() == graded.engaged_N.astype(float).tolist()  # no grades given: the labels


def test_a_listing_in_a_batch_is_as_old_as_when_its_pair_was_last_seen(tmp_path):
    start = datetime(2025, 1, 1, tzinfo=UTC)
    goods = [row | {"created_at": start - timedelta(days=7 * number)} for number, row in enumerate(products())]
    links = [row | {"last_seen": start + timedelta(days=number % 9)} for number, row in enumerate(pairs(goods))]
    seen = {row["product_id"]: row["last_seen"] for row in links if row["split"] == "train"}
    goods[0]["created_at"], goods[1]["created_at"] = None, seen["p1"]  # of no known age, and seen on its first day
    changes = ('product_tower.channels=["title_text", "context"]', 'product_tower.context.numbers=["age"]')
    found = prepare(make_market(tmp_path / "market", goods, links), toy_recipe(*changes), tmp_path)
    batch = found.examples.batch(np.arange(len(found.examples)))
    ages = batch.product["context_numbers"][batch.product_B].numpy()
    for place, age in zip(found.examples.product_N, ages, strict=True):
        expected = found.featurizer.products([goods[place]], None, seen[goods[place]["product_id"]])
        np.testing.assert_allclose(age, expected["context_numbers"][0], atol=1e-6)
    assert len(np.unique(ages, axis=0)) > 10


@pytest.mark.parametrize(("number", "reads_age"), [("price", False), ("age", True)])
def test_pairs_differ_by_age_only_where_the_context_reads_it(toys, tmp_path, number, reads_age):
    channels = 'product_tower.channels=["title_text", "context"]'
    found = prepare(toys, toy_recipe(channels, f'product_tower.context.numbers=["{number}"]'), tmp_path)
    assert (found.examples.days_N is not None) == reads_age


def test_what_was_left_on_the_way_trains_by_how_far_it_went_and_what_was_judged_by_label(tmp_path):
    """`mesa` and `Mesa ` are one query; p0 was engaged in one spelling and left in the other."""
    links = [
        {"query": "mesa", "product_id": "p0", "label": 1, "grade": 1.0, "depth": 3},
        {"query": "Mesa ", "product_id": "p0", "label": 0, "grade": 1 / 3, "depth": 1},
        {"query": "mesa", "product_id": "p1", "label": 0, "grade": 2 / 3, "depth": 2},
        {"query": "mesa", "product_id": "p2", "label": 0, "grade": 0.0, "depth": 0},
        {"query": "mesa", "product_id": "p3", "label": 0, "grade": None, "depth": 1},
        {"query": "Mesa ", "product_id": "p4", "label": 1, "grade": 0.5, "depth": None},
        {"query": "mesa", "product_id": "p4", "label": 0, "grade": 0.1, "depth": None},
    ]
    market = make_market(tmp_path / "market", links=[row | {"country": "us", "split": "train"} for row in links])
    examples = prepare(market, toy_recipe("stages.0.engagement_weight=0.2"), tmp_path).examples
    found = {
        (int(product), bool(engaged)): float(target)
        for product, engaged, target in zip(examples.product_N, examples.engaged_N, examples.target_N, strict=True)
    }
    third = np.float32(2 / 3)
    assert found == {(0, True): 1, (1, False): third, (2, False): 0, (3, False): 0, (4, True): 1, (4, False): 0}
    graded = prepare(market, toy_recipe("stages.0.loss=cosent"), tmp_path).examples
    assert len(graded.rows(CoSENT())) == 6, "a judged pair stays, as do all of a graded stage"
    assert sorted(graded.grade_N.tolist()) == pytest.approx([0, 0, 0.1, 0.5, 2 / 3, 1])


def test_positions_and_countries_of_pairs_come_along_where_they_are_wanted(tmp_path):
    links = [
        {"query": "mesa", "product_id": "p0", "label": 1, "position": None, "country": "us"},
        {"query": "mesa", "product_id": "p1", "label": 0, "position": 2.5, "country": "mx"},
        {"query": "silla", "product_id": "p2", "label": 0, "position": None, "country": None},
    ]
    market = make_market(tmp_path / "market", links=[row | {"split": "train"} for row in links])
    power = "stages.0.unengaged_position_power=1"
    examples = prepare(market, toy_recipe("stages.0.engagement_weight=0.2", power), tmp_path).examples
    assert np.array_equal(examples.position_N, [np.nan, 2.5, np.nan], equal_nan=True)
    assert examples.country_N.tolist() == [2, 1, 0]
    assert prepare(market, toy_recipe("stages.0.engagement_weight=0.2"), tmp_path).examples.position_N is None
    assert prepare(market, toy_recipe(power), tmp_path).examples.position_N is None, "no unengaged pair is read"
    old = make_market(tmp_path / "old", links=[row | {"split": "train", "position": None} for row in links])
    with pytest.raises(MercatoError, match="unengaged_position_power"):
        prepare(old, toy_recipe("stages.0.negatives=mixed", power), tmp_path)


@pytest.mark.parametrize("with_lists", [False, True])
def test_the_head_learns_what_was_searched_most_not_what_engaged_the_most_products(tmp_path, with_lists):
    def row(query: str, product: int, label: int, weight: float, split: str = "train") -> dict:
        given = {"query": query, "product_id": f"p{product}", "label": label, "weight": weight}
        return given | {"country": "us", "split": split}

    links = [row("silla", i, 1, 1) for i in (1, 7, 13)]  # many products, few sessions
    links += [row("mesa", 0, 1, 2), row("Mesa ", 6, 0, 9), row("coche", 3, 1, 8), row("reloj", 5, 1, 8)]
    links += [row("zapato", 2, 0, 99), row("libro", 4, 1, 1), row("libro", 10, 1, 99, "future")]
    market = make_market(tmp_path / "market", links=links)
    if with_lists:  # three lists of one product outweigh one list of many
        shown = [("l1", "libro", 4), ("l2", "Libro", 4), ("l3", "libro", 4), ("l4", "coche", 3), ("l5", "coche", 3)]
        shown += [("l6", "mesa", i) for i in range(9)] + [("l7", "zapato", 2)] * 9
        lists = [
            {"list_id": a, "query": q, "country": "us", "product_id": f"p{i}", "position": 1, "split": "train"}
            for a, q, i in shown
        ] + [
            {"list_id": f"f{i}", "query": "mesa", "country": "us", "product_id": "p0", "position": 1, "split": "future"}
            for i in range(9)
        ]
        pq.write_table(pa.Table.from_pylist(lists, schema=LISTS), market.path / "lists.parquet")
    wanted = ("libro", "coche", "mesa") if with_lists else ("mesa", "coche", "reloj")
    found = prepare(Market.open(market.path), toy_recipe("head.queries=3"), tmp_path)
    assert found.head_queries == wanted
    row = found.examples.classes_MK[3]
    assert row.tolist() == [1], "the classes are numbered in that order"
