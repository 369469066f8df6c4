"""Which pairs, lists and products a split is measured on, by tables small enough to count by hand."""

from __future__ import annotations

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import TABLES
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EvaluationSet

GOODS = [{"product_id": f"p{number}"} for number in range(4)]


@pytest.fixture
def market(tmp_path):
    """Make a market of some tables, each a list of rows."""

    def make(**tables) -> Market:
        write_market_toml(tmp_path, MarketConfig())
        for name, rows in ({"products": GOODS} | tables).items():
            pq.write_table(pa.Table.from_pylist(rows, schema=TABLES[name]), tmp_path / f"{name}.parquet")
        return Market.open(tmp_path)

    return make


def pair(query, product_id, split="future", label=1, country="us", **more):
    key = {"query": query, "country": country, "product_id": product_id}
    return key | {"label": label, "split": split} | more


def judged(query, product_id, grade=1.0, split=None, country="us"):
    return {"query": query, "country": country, "product_id": product_id, "grade": grade, "split": split}


def rows_of(dataset, part):
    """A part as (query, country, product, grade)."""
    pairs = dataset.pairs(part)
    return pairs and [
        (*dataset.queries.row(query), dataset.product_ids[product], grade)
        for query, product, grade in zip(pairs.queries, pairs.products, pairs.grades, strict=True)
    ]


def queries_of(dataset, part):
    return [query for query, *_ in rows_of(dataset, part)]


# --- splits


def test_each_split_has_its_own_pairs_and_new_are_those_that_no_earlier_split_holds(market):
    """A pair without a split is one to learn from."""
    before = [pair("lamp", "p0", "train"), pair("shelf", "p0", None), pair("sofa", "p0", "validation")]
    again = [pair(query, "p0") for query in ("lamp", "shelf", "sofa", "desk")]
    made = market(pairs=[*before, pair("lamp", "p0", "validation"), *again])
    test, validation = EvaluationSet.read(made), EvaluationSet.read(made, "validation")
    assert queries_of(test, "knn") == queries_of(test, "batch") == ["desk", "lamp", "shelf", "sofa"]
    assert queries_of(test, "unseen") == ["desk"]
    assert queries_of(validation, "knn") == queries_of(validation, "batch") == ["lamp", "sofa"]
    assert queries_of(validation, "unseen") == ["sofa"]
    splits = [[data.pairs(part).split for part in ("engagement", "knn", "unseen")] for data in (test, validation)]
    assert splits == [["future"] * 3, ["validation"] * 3]


def test_given_pairs_without_a_split_are_of_the_future(market):
    given = [pair("lamp", "p0", "train"), pair("lamp", "p0", None), pair("desk", "p0", None)]
    dataset = EvaluationSet.read(market(), pairs=pl.DataFrame(given))
    assert queries_of(dataset, "knn") == ["desk", "lamp"] and queries_of(dataset, "unseen") == ["desk"]
    assert rows_of(EvaluationSet.read(market(), "validation", pl.DataFrame(given)), "engagement") is None


def test_a_pair_is_known_by_its_country_too_and_whatever_its_label(market):
    before = [
        pair("lamp", "p0", "train", country=None),
        pair("lamp", "p1", "train", country="gb"),
        pair("lamp", "p2", "train", label=0),
    ]
    later = [pair("lamp", "p0", country=None), pair("lamp", "p1"), pair("lamp", "p2"), pair("lamp", "p3", label=0)]
    dataset = EvaluationSet.read(market(pairs=[*before, *later]))
    assert rows_of(dataset, "knn") == [("lamp", None, "p0", 1), ("lamp", "us", "p1", 1), ("lamp", "us", "p2", 1)]
    assert rows_of(dataset, "unseen") == [("lamp", "us", "p1", 1)]


def test_new_pairs_are_told_apart_where_every_query_has_one(market):
    later = [pair("lamp", "p0"), pair("lamp", "p1")]
    dataset = EvaluationSet.read(market(pairs=[pair("lamp", "p0", "train"), *later]))
    assert rows_of(dataset, "unseen") == [("lamp", "us", "p1", 1)]


def test_only_where_the_future_has_no_engaged_pair_validation_has_its_engaged_ones_in_batches(market):
    """And its queries are asked there alone."""
    others = [pair("shelf", "p0", "train"), pair("sofa", "p1", "validation"), pair("sofa", "p2", "validation")]
    others += [pair("sofa", product_id, "validation", label=0) for product_id in ("p2", "p3")]
    half = [pair("lamp", "p3", label=0), pair("lamp", "p3")]
    dataset = EvaluationSet.read(market(pairs=[*others, *half]))
    assert rows_of(dataset, "batch") == [("sofa", "us", "p1", 1)] and dataset.batch.split == "validation"
    assert dataset.engaged is None and dataset.unseen is None
    assert rows_of(dataset, "engagement") == [("lamp", "us", "p3", 0.5)]
    usual = EvaluationSet.read(market(pairs=[*others, *half, pair("lamp", "p0")]))
    assert queries_of(usual, "batch") == ["lamp"] == usual.queries["query"].to_list()


def test_judgments_without_a_split_are_of_the_test(market):
    made = market(judgments=[judged("lamp", "p0"), judged("sofa", "p0", split="validation")])
    for split, query in (("test", "lamp"), ("validation", "sofa")):
        dataset = EvaluationSet.read(made, split)
        assert rows_of(dataset, "relevance") == [(query, "us", "p0", 1)] and dataset.relevance.split == split


def test_a_judged_query_is_seen_in_any_spelling_where_its_country_engaged_before(market):
    before = [
        pair("LAMP", "p0", "train"),
        pair("desk", "p0", "train", label=0),
        pair("sofa", "p0", "train", country="gb"),
    ]
    judgments = [judged(query, "p1") for query in ("Lamp ", "desk", "sofa", "vase")]
    dataset = EvaluationSet.read(market(pairs=[*before, pair("vase", "p0")], judgments=judgments))
    assert queries_of(dataset, "relevance_unseen") == ["desk", "sofa", "vase"]
    for some in (judgments[:1], judgments[1:]):  # all are seen, or none
        assert EvaluationSet.read(market(pairs=before, judgments=some)).pairs("relevance_unseen") is None


def test_cold_products_are_those_that_nobody_engaged_with_in_an_earlier_split(market):
    """In whatever country and with whatever query; to be shown and left is no engagement."""
    before = [
        pair("lamp", "p0", "train", country="gb"),
        pair("sofa", "p1", "train", label=0),
        pair("sofa", "p2", "validation"),
    ]
    later = [pair("desk", f"p{number}") for number in range(4)]
    made = market(pairs=[*before, *later])
    assert rows_of(EvaluationSet.read(made), "cold") == [("desk", "us", "p1", 1), ("desk", "us", "p3", 1)]
    assert EvaluationSet.read(made, "validation").pairs("cold") is None, "all of them"
    warm = market(pairs=[*before, pair("desk", "p0"), pair("desk", "p2"), pair("desk", "p1", label=0)])
    assert EvaluationSet.read(warm).pairs("cold") is None, "none"


def test_visual_are_engaged_and_relevant_pairs_whose_look_no_text_names(market):
    products = [{"product_id": f"p{number}", "title": title} for number, title in enumerate(["Sofa", "Red sofa"] * 2)]
    pairs = [pair("red sofa", f"p{number}") for number in range(2)] + [pair("red sofa", "p2", label=0)]
    judgments = [judged("red sofa", "p0"), judged("red sofa", "p2"), judged("blue sofa", "p0", 0.5)]
    judgments += [judged("sofa", "p2"), judged("blue sofa", "p2", split="validation")]
    whole = EvaluationSet.read(market(products=products, pairs=pairs, judgments=judgments))
    assert rows_of(whole, "visual") == [("red sofa", "us", "p0", 1), ("red sofa", "us", "p2", 1)]
    only_engaged = market(products=products, pairs=pairs, judgments=[])
    assert rows_of(EvaluationSet.read(only_engaged), "visual") == [("red sofa", "us", "p0", 1)]
    only_judged = market(products=products, pairs=pairs[2:], judgments=judgments)
    assert EvaluationSet.read(only_judged).pairs("visual") is None, "only what was judged is ranked there"
    told = market(products=products, pairs=pairs[1:2], judgments=[])
    assert EvaluationSet.read(told).pairs("visual") is None


# --- rows


def test_rows_of_one_pair_are_averaged_and_its_counts_the_most_that_one_tells(market):
    """In the order of query, country and product, whatever that of the table."""
    twice = [
        pair("lamp", "p0", label=0, impressions=5, depth=1),
        pair("lamp", "p0", label=1, impressions=2, depth=3),
        pair("lamp", "p0", label=1, country="gb"),
    ]
    many = [pair(f"query {number}", "p1", label=0) for number in reversed(range(10, 40))]
    dataset = EvaluationSet.read(market(pairs=[*many, *twice], judgments=[judged("lamp", "p0")]))
    assert rows_of(dataset, "engagement") == [
        ("lamp", "gb", "p0", 1),
        ("lamp", "us", "p0", 0.5),
        *[(f"query {number}", "us", "p1", 0) for number in range(10, 40)],
    ]
    engagement, unknown = dataset.engagement, [np.nan] * 30
    np.testing.assert_array_equal(engagement.impressions, [np.nan, 5, *unknown])
    np.testing.assert_array_equal(engagement.depth, [np.nan, 3, *unknown])
    assert rows_of(dataset, "knn") == [("lamp", "gb", "p0", 1)], "half of it is not engaged"
    assert np.isnan(dataset.relevance.impressions).all() and np.isnan(dataset.relevance.depth).all()
    given = EvaluationSet.read(market(), pairs=pl.DataFrame(twice)).engagement
    np.testing.assert_array_equal([given.impressions, given.depth], [[np.nan, 5], [np.nan, 3]])
    engaged = engagement.only(engagement.grades == 0.5)
    assert (engaged.impressions.tolist(), engaged.depth.tolist()) == ([5], [3])


def test_queries_are_distinct_and_of_every_part_each_with_its_country(market):
    pairs = [pair("sofa", "p0"), pair("lamp", "p0"), pair("lamp", "p1", country=None), pair("desk", "p0", "train")]
    dataset = EvaluationSet.read(
        market(pairs=pairs, judgments=[judged("lamp", "p2", country="gb"), judged("lamp", "p3")])
    )
    assert dataset.queries.rows() == [("lamp", None), ("lamp", "gb"), ("lamp", "us"), ("sofa", "us")]
    assert rows_of(dataset, "relevance") == [("lamp", "gb", "p2", 1), ("lamp", "us", "p3", 1)]
    assert dataset.engaged.query_rows.tolist() == [0, 2, 3] and dataset.engaged.groups.tolist() == [0, 1, 2]


def test_what_is_not_in_the_catalogue_is_counted_and_a_part_of_nothing_else_is_none(market):
    twice = [*GOODS, GOODS[0]]  # a product of two rows is the first of them
    pairs, judgments = [pair("lamp", "p0"), pair("lamp", "gone"), pair("sofa", "lost")], [judged("lamp", "gone")]
    dataset = EvaluationSet.read(market(products=twice, pairs=pairs, judgments=judgments))
    assert dataset.engagement.products.tolist() == [0] and dataset.engagement.unknown == 2
    assert dataset.relevance is None and len(dataset.product_ids) == 5
    gone = EvaluationSet.read(market(pairs=pairs[1:], judgments=judgments))
    assert {part: gone.pairs(part) for part in ("engagement", "knn", "batch", "unseen", "relevance")} == dict.fromkeys(
        ("engagement", "knn", "batch", "unseen", "relevance")
    )


@pytest.mark.parametrize("column", ["query", "product_id", "label"])
def test_a_pair_that_lacks_something_is_named(market, column):
    rows = [pair("lamp", "p0"), pair("lamp", "p1") | {column: None}, pair("lamp", "p2") | {column: None}]
    with pytest.raises(MercatoError, match=f"table pairs, row 1, column {column}"):
        EvaluationSet.read(market(pairs=rows))
    with pytest.raises(MercatoError, match=f"table pairs, row 1, column {column}"):
        EvaluationSet.read(market(), pairs=pl.DataFrame(rows))
    with pytest.raises(MercatoError, match=f"lack the column {column}"):
        EvaluationSet.read(market(), pairs=pl.DataFrame(rows[:1]).drop(column))


# --- where is searched


def test_the_judged_products_are_ranked_alone_where_nothing_is_known_of_engagement(market):
    judgments = [judged("sofa", "p3"), judged("lamp", "p3"), judged("lamp", "p1")]
    left = [pair("lamp", "p0", label=0)]
    only_judged, shown = EvaluationSet.read(market(judgments=judgments)), market(judgments=judgments, pairs=left)
    for dataset in (only_judged, EvaluationSet.read(shown)):
        assert dataset.rows.tolist() == [1, 3]
        ((places, among),) = dataset.areas(np.array([0, 1]))
        assert (places.tolist(), among.tolist()) == ([0, 1], [1, 3])
    engaged = EvaluationSet.read(market(judgments=judgments, pairs=[*left, pair("lamp", "p2", "validation")]))
    assert engaged.rows.tolist() == [0, 1, 2, 3]


def local(market, countries, pairs):
    """Whether searches stay within their country."""
    products = [{"product_id": f"p{number}", "country": country} for number, country in enumerate(countries)]
    dataset = EvaluationSet.read(market(products=products, pairs=pairs))
    assert dataset.countries in (None, countries)
    return dataset.countries is not None


def test_a_search_without_a_country_finds_the_products_of_all(market):
    products = [{"product_id": f"p{n}", "country": country} for n, country in enumerate(["us", "mx", "us", "us"])]
    pairs = [pair("a", "p1", country="mx"), pair("b", "p0"), pair("c", "p1", country=None), pair("d", "p3")]
    dataset = EvaluationSet.read(market(products=products, pairs=pairs))
    found = {place: among.tolist() for places, among in dataset.areas(np.array([3, 2, 0])) for place in places}
    assert found == {0: [0, 2, 3], 1: [0, 1, 2, 3], 2: [1]}


def test_one_pair_in_a_hundred_may_cross_a_border(market):
    countries = ["us", "mx"]
    home = [pair(f"query {number}", "p0") for number in range(198)]
    astray = [pair(f"stray {number}", "p1") for number in range(3)]
    assert local(market, countries, home + astray[:2])
    assert not local(market, countries, home + astray)


def test_unknown_countries_say_nothing_of_borders(market):
    nowhere = [pair("lamp", "p2"), pair("sofa", "p0", country=None), pair("desk", "p1", country="")]
    assert not local(market, ["us", "mx", None], nowhere)
    assert local(market, ["us", "mx", None], [*nowhere, pair("shelf", "p0")])
    assert not local(market, ["us", "us", None], [pair("shelf", "p0")]), "there is one country"
    assert not local(market, ["us", "us"], [pair("shelf", "p0")])


# --- displayed lists


def past(split, every):
    """60 queries' one product: at the first position it was always clicked, at the second of every so many."""
    return [
        shown(f"{split} {query} {place}", f"query {query}", "p0", place, depth, split)
        for query in range(60)
        for place, depth in ((1, 1), (2, int(query % every == 0)))
    ]


def shown(name, query, product_id, position, depth, split="future", country="us"):
    key = {"list_id": name, "query": query, "country": country, "product_id": product_id}
    return key | {"position": position, "depth": depth, "split": split}


LATER = [
    shown("b", "lamp", "p2", 2, 0),
    shown("b", "lamp", "p1", 1, 2),
    shown("b", "lamp", "p0", 2, 0),
    shown("a", "sofa", "gone", 2, 1, country=None),
    shown("a", "sofa", "p3", 7, 1, country=None),
    shown("c", "vase", "p0", 1, 0),
    shown("open", "lamp", "p0", 1, 1),
    shown("open", "lamp", "p1", 2, None),
    shown("odd", "lamp", "p0", None, 1),
    shown("odd", "lamp", "p1", 2, 1),
]


def test_lists_whose_every_outcome_is_known_are_measured_as_they_were_shown(market):
    dataset = EvaluationSet.read(market(lists=[*past("train", 2), *LATER], judgments=[judged("desk", "p0")]))
    assert rows_of(dataset, "lists") == [
        ("sofa", None, "p3", 1),
        ("lamp", "us", "p1", 2),
        ("lamp", "us", "p0", 0),
        ("lamp", "us", "p2", 0),
        ("vase", "us", "p0", 0),
    ]
    lists = dataset.lists
    assert lists.lists_P.tolist() == [0, 1, 1, 1, 2] and lists.list_queries.tolist() == [1, 0, 2]
    assert lists.positions_P.tolist() == [7, 1, 2, 2, 1]
    assert lists.propensities_P == pytest.approx([0.5, 1, 0.5, 0.5, 1], abs=1e-3)
    assert (lists.shown.split, lists.shown.unknown) == ("future", 1)


def test_what_a_rule_pinned_is_not_measured_nor_tells_a_propensity(market):
    """What exploration placed is measured, and tells none either."""
    pin, draw = {"placed_by": "pin"}, {"placed_by": "exploration"}
    placed = [row | by for row in past("train", 1) if row["position"] == 2 for by in (pin, draw)]
    later = [row | {"p1": pin, "p2": draw}.get(row["product_id"], {}) for row in LATER]
    dataset = EvaluationSet.read(market(lists=[*past("train", 2), *placed, *later]))
    assert rows_of(dataset, "lists")[1:] == [("lamp", "us", "p0", 0), ("lamp", "us", "p2", 0), ("vase", "us", "p0", 0)]
    assert dataset.lists.propensities_K == pytest.approx([1, 0.5], abs=1e-3)


def test_propensities_are_of_earlier_lists_alone(market):
    """Those without a split are to learn from."""
    lists = [*past(None, 2), *past("validation", 1), *past("future", 60)]
    made = market(lists=lists)
    for split, second in (("validation", 0.5), ("test", 0.75)):
        displayed = EvaluationSet.read(made, split).lists
        assert displayed.propensities_K == pytest.approx([1, second], abs=1e-3)
        assert displayed.shown.split == {"test": "future"}.get(split, split) and len(displayed.lists_P) == 120
        clicked = displayed.shown.grades[displayed.propensities_P < 1]
        assert clicked.sum() == {"validation": 60, "test": 1}[split]


def test_lists_are_left_out_where_nobody_asks_or_nothing_of_them_is_in_the_catalogue(market):
    made = market(lists=[*past("train", 2), *LATER])
    assert EvaluationSet.read(made).lists is not None
    assert EvaluationSet.read(made, lists=False).lists is None
    assert EvaluationSet.read(made, pairs=pl.DataFrame([pair("lamp", "p0")])).lists is None
    gone = market(lists=[*past("train", 2), shown("a", "sofa", "gone", 1, 1)])
    assert EvaluationSet.read(gone).lists is None
