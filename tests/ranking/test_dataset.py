"""Displayed and judged lists as rows: whose features, grades and positions stand together."""

from __future__ import annotations

from datetime import date

import numpy as np
import polars as pl
import pytest

from mercato.data.hashing import hash64
from mercato.errors import MercatoError
from mercato.ranking.dataset import displayed, judged
from mercato.ranking.features import IDS, NAMES, UNLOGGED
from mercato.ranking.lookup import query_key
from mercato.ranking.system import RankedSearch
from mercato.retrieval.expression import Expression
from mercato.retrieval.samples import QUERY
from mercato.runs.query_head import QueryHead
from tests.ranking.test_counting import PRODUCTS, shown
from tests.support.ranked_catalogue import NOW, counts_of, indexed

AGE = NAMES.index("age_days")


class OneVector:
    """Every query means the same."""

    def encode_queries(self, texts, country=None):
        return np.stack([QUERY] * len(texts))


@pytest.fixture(scope="module")
def index():
    with indexed([product | {"created_at": NOW} for product in PRODUCTS]) as index:
        yield index


@pytest.fixture(scope="module")
def statistics(index):
    return counts_of(index)


LISTS = pl.DataFrame(
    [
        *shown("z", "lamp", 30, ("p5", 0), ("p2", 3), ("gone", 2), ("p0", 1)),
        *shown("a", "lamp", 30, ("p0", 0), ("p5", 2)),
        *shown("m", "desk", 29, ("p6", 1), ("p5", 0)),
        *shown("open", "desk", 29, ("p6", 1), ("p7", None)),
    ]
).sample(fraction=1, shuffle=True, seed=3)


def test_a_row_is_of_one_product_of_one_list(index, statistics):
    """Those that the index does not hold are left out, and lists of which not all is known."""
    learned = displayed(LISTS, OneVector(), index, statistics)
    hits = index.lookup(Expression(vector=QUERY, text="lamp"), [product["product_id"] for product in PRODUCTS])
    cosine = dict(zip(hits.product_ids, hits.cosine_H.tolist(), strict=True))
    key_of = {hash64(product): product for product in cosine}
    product, query = (learned.ids_PT[:, IDS.index(name)].tolist() for name in ("product_id", "query"))
    rows = {
        (number, key_of[key], grade, position)
        for number, key, grade, position in zip(
            learned.lists_P.tolist(), product, learned.grades_P.tolist(), learned.positions_P.tolist(), strict=True
        )
    }
    of_list = {frozenset(row[1:] for row in rows if row[0] == number) for number in {row[0] for row in rows}}
    assert of_list == {
        frozenset({("p5", 0, 1), ("p2", 3, 2), ("p0", 1, 4)}),
        frozenset({("p0", 0, 1), ("p5", 2, 2)}),
        frozenset({("p6", 1, 1), ("p5", 0, 2)}),
    }
    assert (np.diff(learned.lists_P) >= 0).all() and learned.sizes.tolist() == np.bincount(learned.lists_P).tolist()
    for key, row in zip(product, learned.features_PF, strict=True):
        assert row[NAMES.index("cosine")] == pytest.approx(cosine[key_of[key]], abs=1e-4)
    desk = np.array(query) == np.uint64(query_key("desk"))
    assert desk.sum() == 2 and len({*learned.folds(7)[desk]}) == 1
    some = learned.only(desk)
    assert some.lists_P.tolist() == [0, 0] and some.grades_P.tolist() == learned.grades_P[desk].tolist()


def test_features_are_as_they_were_logged_where_a_whole_list_has_them(index, statistics):
    """In this version; age and distance are always computed, and what is null is unknown."""
    lists = LISTS.filter(pl.col("list_id") != "open")
    told = [[float(row), None, *[float(row)] * (len(NAMES) - 2)] for row in range(len(lists))]
    lists = lists.with_columns(
        features=pl.Series(told, dtype=pl.List(pl.Float32)),
        features_version=pl.when(pl.col("list_id") == "m").then(pl.lit("old")).otherwise(pl.lit("now")),
    ).with_columns(features=pl.when((pl.col("list_id") != "a") | (pl.col("product_id") != "p5")).then("features"))
    computed, logged = (displayed(lists, OneVector(), index, statistics, None, version) for version in (None, "now"))
    left_out = [NAMES.index(name) for name in UNLOGGED]
    of_z = np.flatnonzero(logged.sizes[logged.lists_P] == 3)
    others = np.flatnonzero(logged.sizes[logged.lists_P] != 3)
    np.testing.assert_array_equal(logged.features_PF[others], computed.features_PF[others])
    row_of = {hash64(row["product_id"]): at for at, row in enumerate(lists.to_dicts()) if row["list_id"] == "z"}
    for place in of_z:
        row = row_of[int(logged.ids_PT[place, IDS.index("product_id")])]
        expected = np.array([np.nan if number is None else number for number in told[row]], np.float32)
        expected[left_out] = computed.features_PF[place, left_out]
        np.testing.assert_array_equal(logged.features_PF[place], expected)
    short = lists.with_columns(features=pl.col("features").list.head(3))
    with pytest.raises(MercatoError, match="table lists, column features"):
        displayed(short, OneVector(), index, statistics, None, "now")


def test_listings_are_as_old_as_on_the_day_of_the_list(index, statistics):
    early = pl.DataFrame(shown("a", "lamp", 30, ("p0", 1), ("p1", 0)))
    later = early.with_columns(day=pl.lit(date(2026, 5, 11)), list_id=pl.lit("b"))
    ages = displayed(pl.concat([early, later]), OneVector(), index, statistics).features_PF[:, AGE]
    assert sorted(ages.tolist()) == pytest.approx([0, 0, 10.5, 10.5], abs=0.01)


def test_several_raters_are_averaged_and_grades_are_levels(index, statistics):
    rows = [("lamp", "p0", 2.0), ("lamp", "p0", 1.0), ("lamp", "p1", -1.0), ("lamp", "p2", 3.0), ("desk", "p2", 0.0)]
    judgments = pl.DataFrame(rows, schema=["query", "product_id", "grade"], orient="row")
    judgments = judgments.with_columns(country=pl.lit(None, pl.String))
    learned, worth = judged(judgments, NOW, OneVector(), index, statistics)
    assert worth == [0, 1.5, 3] and sorted(learned.sizes.tolist()) == [1, 3]
    key_of = {hash64(product["product_id"]): product["product_id"] for product in PRODUCTS}
    query = learned.ids_PT[:, IDS.index("query")] == np.uint64(query_key("lamp"))
    grades = {
        key_of[key]: grade
        for key, grade in zip(
            learned.ids_PT[query, IDS.index("product_id")].tolist(), learned.grades_P[query].tolist(), strict=True
        )
    }
    assert grades == {"p0": 1, "p1": 0, "p2": 2} and not learned.positions_P.any()
    assert learned.tells_apart and not learned.only(~query).tells_apart


def test_the_head_tells_of_displayed_and_of_judged_lists(index, statistics):
    """Of those whose query it knows."""
    head = QueryHead(["lamp"], QUERY[None], np.ones(1, np.float32))
    judgments = pl.DataFrame({"query": ["lamp", "desk"], "product_id": ["p1", "p6"], "grade": [1.0, 0.0]})
    judgments = judgments.with_columns(country=pl.lit(None, pl.String))
    for learned in (
        displayed(LISTS, OneVector(), index, statistics, head),
        judged(judgments, NOW, OneVector(), index, statistics, head)[0],
    ):
        lamp = learned.ids_PT[:, IDS.index("query")] == np.uint64(query_key("lamp"))
        cosine_P, head_P = (learned.features_PF[:, NAMES.index(name)] for name in ("cosine", "head"))
        length = np.linalg.norm(QUERY)
        np.testing.assert_allclose(head_P[lamp], length * cosine_P[lamp] + 1, rtol=1e-4)
        assert lamp.any() and np.isnan(head_P[~lamp]).all()


def test_lists_in_which_nothing_is_better_teach_nothing(index, statistics):
    """Though one list is better than another."""
    lists = pl.DataFrame([*shown("a", "lamp", 30, ("p0", 1), ("p1", 1)), *shown("b", "lamp", 30, ("p0", 0), ("p1", 0))])
    assert not displayed(lists, OneVector(), index, statistics).tells_apart


def asked(*queries):
    """The queries of an evaluation, from nowhere."""
    return pl.DataFrame({"query": queries}).with_columns(country=pl.lit(None, pl.String))


def test_a_search_is_measured_in_every_order_that_is_asked_for(index):
    """And looked up once for all of them."""
    calls = []

    def orders(asked, hits):
        calls.append(asked)
        price = hits.signals().number("price")
        return {"cheap": -price, "dear": price}

    ids = [product["product_id"] for product in PRODUCTS]
    queries = pl.DataFrame(
        {"query": ["lamp", "desk"], "country": [None, None]}, schema_overrides={"country": pl.String}
    )
    cheap = RankedSearch("cheap", orders, OneVector(), index, queries, [*ids, "gone"], NOW)
    dear = cheap.by("dear")
    pairs = np.array([1, 0, 0, 1]), np.array([3, 8, 1, 0])
    np.testing.assert_array_equal(cheap.score(*pairs), [-13, -np.inf, -11, -10])
    np.testing.assert_array_equal(dear.score(*pairs), [13, -np.inf, 11, 10])
    grid = dear.grid(np.array([0, 1]), np.array([2, 2, 8, 5]))
    np.testing.assert_array_equal(grid, [[12, 12, -np.inf, 15]] * 2)
    np.testing.assert_array_equal(cheap.grid(np.array([0, 1]), np.array([2, 2, 8, 5])), -np.abs(grid))
    assert len(calls) == 4
    everything = np.arange(9)
    assert cheap.top(np.array([0]), 3, everything).tolist() == [[0, 1, 2]]
    assert dear.top(np.array([0]), 9, everything).tolist() == [[7, 6, 5, 4, 3, 2, 1, 0, -1]]
    assert len(calls) == 5


def test_what_holds_every_word_comes_first_in_every_order():
    """As on a page, one of the words being rare."""
    products = [
        {"product_id": f"p{n}", "title": f"lamp {'zebra' if n == 3 else n}", "price": float(n)} for n in range(40)
    ]
    with indexed(products) as index:
        queries = asked("lamp zebra")
        ids = [product["product_id"] for product in products]
        found = RankedSearch(
            "dear", lambda _, hits: {"dear": hits.signals().number("price")}, OneVector(), index, queries, ids, NOW
        )
        assert found.top(np.array([0]), 2, np.arange(40)).tolist() == [[3, 39]]


def test_where_a_stage_gives_no_scores_the_one_before_it_orders(index):
    """As on a page: a score was not finite."""
    ids = [product["product_id"] for product in PRODUCTS]
    both = RankedSearch(
        "dlrm", lambda _, hits: {"trees": hits.signals().number("price")}, OneVector(), index, asked("lamp"), ids, NOW
    )
    assert both.score(np.array([0, 0]), np.array([3, 1])).tolist() == [13, 11]
    assert both.top(np.array([0]), 2, np.arange(8)).tolist() == [[7, 6]]
