"""Which listings are new, and how they and their places are drawn."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from mercato.config.ranking import Exploration
from mercato.data.hashing import hash64
from mercato.ranking.lookup import Lookup
from mercato.retrieval.signals import SignalColumns, signals_of
from mercato.search.exploration import chosen, drawn

NOW = datetime(2026, 5, 20, tzinfo=UTC)
SETTINGS = Exploration(share=0.2, first=5, days=7, impressions=2)
A_QUERY, ANOTHER = "0123456789abcdef01234567", "76543210fedcba9876543210"


class Shown:
    """Statistics of impressions a day."""

    def __init__(self, **a_day):
        nothing = np.zeros(len(a_day))
        keys = np.array([hash64(name) for name in a_day], np.uint64)
        self.products = Lookup.of(keys, nothing, nothing, np.log1p([*a_day.values()]))


def columns(**days):
    """The signals of products that were listed so many days ago."""
    made = [
        signals_of({"product_id": key, "created_at": None if ago is None else NOW - timedelta(days=ago)})
        for key, ago in days.items()
    ]
    return SignalColumns(
        np.stack([each.numbers_N for each in made]),
        np.stack([each.keys_K for each in made]),
        np.zeros(0, np.uint32),
        np.zeros((len(made), 6), np.int64),
    )


def test_new_is_what_was_listed_lately_and_shown_little():
    found = columns(young=6, old=8, shown=1, few=1, undated=None)
    assert {*drawn(A_QUERY, found, Shown(shown=2.1, few=1.9, old=0), NOW, SETTINGS).tolist()} == {0, 3}


def test_a_search_draws_alike_whatever_else_was_found_and_another_one_otherwise():
    days = {f"p{number}": 1 for number in range(40)}
    names = [*days]
    order = [names[place] for place in drawn(A_QUERY, columns(**days), Shown(), NOW, SETTINGS)]
    assert order == [names[place] for place in drawn(A_QUERY, columns(**days), Shown(), NOW, SETTINGS)]
    assert order != [names[place] for place in drawn(ANOTHER, columns(**days), Shown(), NOW, SETTINGS)]
    more = {**days, **{f"old{number}": 100 for number in range(40)}}
    assert order == [[*more][place] for place in drawn(A_QUERY, columns(**more), Shown(), NOW, SETTINGS)]


def test_the_chance_of_a_listing_falls_with_its_place():
    """As 1/place: of two at the places 1 and 4 the first one is drawn before the other four times in five."""
    found = columns(a=1, b=99, c=99, d=1)
    first = [drawn(secrets.token_hex(12), found, Shown(), NOW, SETTINGS)[0] for _ in range(4_000)]
    assert {*first} == {0, 3}
    assert np.mean(np.array(first) == 0) == pytest.approx(0.8, abs=0.04)  # six standard errors


def test_places_from_the_first_on_are_chosen_by_their_share():
    share = np.mean([chosen(secrets.token_hex(12), 1000, SETTINGS)[5:].mean() for _ in range(100)])
    assert share == pytest.approx(0.2, abs=0.01)
    one, other = chosen(A_QUERY, 1000, SETTINGS), chosen(ANOTHER, 1000, SETTINGS)
    assert len(one) == 1001 and not one[:5].any() and (one != other).any()
    assert (one == chosen(A_QUERY, 1000, SETTINGS)).all() and (one[:41] == chosen(A_QUERY, 40, SETTINGS)).all()
    assert any(chosen(secrets.token_hex(12), 5, SETTINGS)[5] for _ in range(200)), "the first one may be"
