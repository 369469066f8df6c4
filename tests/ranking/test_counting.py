"""What is counted of a log written by hand."""

from __future__ import annotations

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from mercato.data.hashing import hash64
from mercato.data.market import Engagement, MarketConfig
from mercato.ranking.counting import PRIOR_CLICKS
from mercato.ranking.features import NAMES, Asked, features
from mercato.ranking.lookup import Lookup, mixed, query_key
from mercato.ranking.statistics import Statistics
from mercato.retrieval.expression import Expression
from mercato.retrieval.samples import QUERY
from tests.support.ranked_catalogue import NOW, counts_of, indexed

PRODUCTS = [
    {"product_id": f"p{n}", "title": f"lamp {n}", "category": "Home > Lamps" if n < 6 else "Home > Desks"}
    | {"price": 10.0 + n, "seller_id": f"s{n % 2}", "condition": "used" if n % 3 else "New "}
    for n in range(8)
]  # fmt: skip


def shown(list_id, query, day, *products):
    """A displayed list: (product, depth) from the first position on."""
    keys = {"list_id": list_id, "query": query, "country": "us", "day": date(2026, 4, day), "split": "train"}
    return [keys | {"product_id": p, "position": at, "depth": depth} for at, (p, depth) in enumerate(products, 1)]


USD = np.array([hash64("usd")], np.uint64)

LISTS = pl.DataFrame(
    [
        *shown("a", "lamp", 1, ("p0", 2), ("p1", 0), ("p2", 0)),
        *shown("b", "Lamp ", 2, ("p1", 1), ("p0", 0), ("p6", 1)),
        *shown("c", "desk", 2, ("p6", 3), ("p0", 0), ("gone", 1)),
        *shown("d", "desk", 2, ("p7", None), ("p6", 0)),
    ]
)


@pytest.fixture(scope="module")
def index():
    with indexed(PRODUCTS) as index:
        yield index


@pytest.fixture(scope="module")
def counted(index):
    return counts_of(index, LISTS)


def of(table, *keys):
    return table.get(np.array(keys, np.uint64))[0].tolist()


def test_clicks_are_held_against_those_that_the_positions_would_have_brought(counted):
    """At the first position 3 of 3 known were clicked, at the second none of 4, at the third 1 of 2."""
    steps_a_click = (2 + 1 + 1 + 3) / 4
    coec, steps, seen = of(counted.products, hash64("p0"))  # shown at 1, 2 and 2; clicked once, two steps far
    assert coec == pytest.approx((1 + PRIOR_CLICKS) / (1 + PRIOR_CLICKS))
    assert steps == pytest.approx((2 + PRIOR_CLICKS * steps_a_click) / (1 + PRIOR_CLICKS))
    assert seen == pytest.approx(np.log1p(3 / 2)), "of two days"
    coec, _, _ = of(counted.products, hash64("p6"))  # shown at 3, 1 and 2
    assert coec == pytest.approx((2 + PRIOR_CLICKS) / (1.5 + PRIOR_CLICKS))
    assert np.isnan(of(counted.products, hash64("p5"))).all(), "never shown"
    assert np.isnan(of(counted.products, hash64("p7"))).all(), "shown, and nobody knows yet what came of it"
    assert np.isnan(of(counted.products, hash64("gone"))).all(), "not in the catalogue any more"


def test_a_query_is_known_by_its_normal_form(counted):
    searches, entropy = of(counted.queries, query_key("LAMP"))
    assert searches == pytest.approx(np.log1p(2 / 2))
    (price,) = of(counted.query_prices, *mixed(np.array([query_key("lamp")], np.uint64), USD))
    assert price == 10.0, "what it led two steps to cost 10"
    third = 1 / 3  # of its three clicks one went to a desk
    assert entropy == pytest.approx(-(third * np.log(third) + 2 * third * np.log(2 * third)))
    share = of(
        counted.query_categories,
        *mixed(np.array([query_key("lamp")], np.uint64), np.array([hash64("home > desks")], np.uint64)),
    )
    assert share[3] == pytest.approx(third)
    assert np.isnan(of(counted.queries, query_key("chair"))).all()


def test_prices_are_held_against_their_kind(counted, index):
    """Six lamps make a median, two desks do not; all eight make the department's."""
    hits = index.lookup(Expression(vector=QUERY, text="lamp"), ["p0", "p6"])
    found = dict(zip(NAMES, features(Asked("lamp", NOW), hits, counted).T.tolist(), strict=True))
    assert found["price_of_category"] == pytest.approx([np.log(10 / 12.5), np.nan], rel=1e-5, nan_ok=True)
    assert found["price_of_department"] == pytest.approx([np.log(10 / 13.5), np.log(16 / 13.5)], rel=1e-5)
    assert found["price_of_query"] == pytest.approx([0, np.log(1.6)], rel=1e-5, abs=1e-6)


def test_a_category_and_a_department_of_one_name_have_their_own_medians():
    """Ten cheap products lie in Furniture itself, ninety dear ones below it; of four hats each counts once."""
    products = [
        {"product_id": f"p{n}", "title": "chair", "category": "Furniture" if n < 10 else "Furniture > Sofas"}
        | {"price": 10.0 if n < 10 else 1000.0}
        for n in range(100)
    ]
    flat = [{"product_id": f"f{n}", "title": "hat", "category": "Hats", "price": 5.0} for n in range(4)]
    lists = pl.DataFrame(shown("a", "chair", 1, ("p0", 3)))
    with indexed([*products, *flat]) as index:
        counted = counts_of(index, lists)
        hits = index.lookup(Expression(vector=QUERY, text="chair"), ["p0", "f0"])
        found = dict(zip(NAMES, features(Asked("chair", NOW), hits, counted).T.tolist(), strict=True))
    assert found["price_of_category"] == pytest.approx([0.0, np.nan], abs=1e-6, nan_ok=True)
    assert found["price_of_department"] == pytest.approx([np.log(0.01), np.nan], rel=1e-4, nan_ok=True)


def test_a_price_is_held_against_others_of_its_currency():
    """One that names none is in the market's."""
    currencies = [None, "USD", "usd ", None, "USD"] + ["JPY"] * 5
    products = [
        {"product_id": f"p{n}", "title": "phone", "category": "Phones", "price": 100.0 * (150 if n >= 5 else 1)}
        | {"currency": currency}
        for n, currency in enumerate(currencies)
    ]
    lists = pl.DataFrame([*shown("a", "phone", 1, ("p0", 3), ("p1", 3)), *shown("b", "phone", 1, ("p7", 3))])
    with indexed(products) as index:
        hits = index.search(Expression(vector=QUERY, text="phone"), 10)
        found = dict(zip(NAMES, features(Asked("phone", NOW), hits, counts_of(index, lists)).T, strict=True))
    for name in ("price_of_market", "price_of_category", "price_of_query"):
        assert found[name] == pytest.approx(np.zeros(10), abs=1e-6), name


def test_a_section_is_as_long_as_where_it_is_filled_in(counted):
    assert counted.mean_words_S.tolist() == [2, 1, 1, 2, 1], "nobody has a description: a mean is never less than 1"


def test_what_is_listed_later_tells_nothing_of_prices_and_words():
    later = {"created_at": NOW + timedelta(days=1), "price": 1000.0, "title": "lamp zebra"}
    old = {"created_at": NOW - timedelta(days=1)}
    products = [row | old for row in PRODUCTS] + [PRODUCTS[n] | later | {"product_id": f"late{n}"} for n in range(8)]
    with indexed(products) as index:
        before, after = (counts_of(index, LISTS, moment) for moment in (NOW, NOW + timedelta(days=9)))
    lamps = mixed(np.array([hash64("home > lamps")], np.uint64), USD)
    assert of(before.category_prices, *lamps) == [12.5] and of(after.category_prices, *lamps) != [12.5]
    assert len(after.words.keys_n) == len(before.words.keys_n) + 1


def test_what_is_engaged_in_a_chain_of_one_step_has_a_price():
    config = MarketConfig(engagement=Engagement(chain=("purchase",)))
    lists = pl.DataFrame(shown("a", "lamp", 1, ("p3", 1), ("p1", 0)))
    with indexed(PRODUCTS) as index:
        counted = counts_of(index, lists, NOW, config)
    assert of(counted.query_prices, *mixed(np.array([query_key("lamp")], np.uint64), USD)) == [13.0]


def test_a_rare_word_weighs_more(counted):
    rarity = counted.words
    assert len(rarity.keys_n) == 8 + 4  # the numbers, lamp, home, lamps and desks
    assert rarity.values_nV.min() > 0 and rarity.values_nV.max() > 3 * rarity.values_nV.min()


def test_what_comes_later_changes_nothing(counted, index):
    """Counts are of the lists given, which the caller cuts off where the measured ones begin."""
    later = pl.DataFrame(shown("z", "lamp", 9, ("p5", 3)))
    both = counts_of(index, pl.concat([LISTS, later]))
    assert not np.isnan(of(both.products, hash64("p5"))).any() and np.isnan(of(counted.products, hash64("p5"))).all()


def test_a_day_of_which_nothing_is_known_is_no_day(counted, index):
    """As the last one of every split."""
    opened = pl.DataFrame(shown("z", "lamp", 9, ("p5", None), ("p0", None)), schema=LISTS.schema)
    both = counts_of(index, pl.concat([LISTS, opened]))
    assert of(both.products, hash64("p0")) == of(counted.products, hash64("p0"))
    assert of(both.queries, query_key("lamp")) == of(counted.queries, query_key("lamp"))


def test_they_are_read_back_as_they_were(counted, tmp_path):
    counted.save(tmp_path / "statistics.npz")
    again = Statistics.load(tmp_path / "statistics.npz")
    assert again.currency == counted.currency == USD[0]
    np.testing.assert_array_equal(again.mean_words_S, counted.mean_words_S)
    for name, table in vars(counted).items():
        if isinstance(table, Lookup):
            np.testing.assert_array_equal(table.keys_n, getattr(again, name).keys_n)
            np.testing.assert_array_equal(table.values_nV, getattr(again, name).values_nV)


def test_a_lookup_of_nothing_and_of_the_unknown():
    empty = Lookup.of(np.zeros(0, np.uint64), np.zeros(0))
    assert np.isnan(empty.get(np.array([1, 2], np.uint64))).all()
    one = Lookup.of(np.array([0, 5], np.uint64), np.array([7.0, 8.0]))
    assert one.get(np.array([5], np.uint64))[0, 0] == 8
    assert np.isnan(one.get(np.array([0, 4, 6], np.uint64))).all(), "what is unknown is not the unknown key's"
