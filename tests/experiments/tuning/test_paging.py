"""How far searches go, and what the pages of a search cost and show."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import polars as pl
import pytest

from mercato.evaluation.metrics.bootstrap import resample
from mercato.experiments.tuning import paging
from mercato.experiments.tuning.golden import GoldenQuery
from mercato.experiments.tuning.paging import PAGE_SIZE, PAGES, Reach, policies, reach, replay
from mercato.search.policy import Effort, RetrievalPolicy


class Lists:
    """A market of displayed lists alone."""

    path = Path("market")

    def __init__(self, frame=None):
        self._frame = frame

    def has(self, table):
        return table == "lists" and self._frame is not None

    def frame(self, table, columns):
        return self._frame.select(columns)


def lists(lengths, split="validation"):
    rows = [
        {"list_id": f"{split}{n}", "query": "q", "country": "us", "product_id": f"p{k}", "position": k, "depth": 0}
        for n, length in enumerate(lengths)
        for k in range(1, length + 1)
    ]
    return pl.DataFrame(rows).with_columns(split=pl.lit(split), placed_by=pl.lit(None, pl.String))


def test_where_lists_are_longer_than_a_page_their_lengths_tell():
    """Those of the validation days alone; what was displayed to its end was asked for."""
    lengths = [PAGE_SIZE, PAGE_SIZE, PAGE_SIZE + 1, 3 * PAGE_SIZE]
    found = reach(Lists(pl.concat([lists(lengths), lists([9 * PAGE_SIZE], "future")])))
    assert (found.by, found.exponent) == ("lengths", None)
    np.testing.assert_allclose(found.chances_P, [1, 0.5, 0.25, 0, 0, 0])
    assert found.pages == 1.75


def test_where_one_page_was_displayed_clicks_by_position_tell(monkeypatch):
    """A power of the position, taken beyond what was displayed."""
    monkeypatch.setattr(paging, "estimate_propensities", lambda frame: np.arange(1, 15.0) ** -0.5)
    found = reach(Lists(lists([14] * 5)))
    assert found.by == "positions" and found.exponent == pytest.approx(0.5)
    np.testing.assert_allclose(found.chances_P, (np.arange(PAGES) * PAGE_SIZE + 1) ** -0.5)


def test_nothing_is_said_where_no_list_tells(monkeypatch):
    assert reach(Lists()) is None
    assert reach(Lists(lists([14, 14]))) is None, "nobody clicked"


def test_test_days_teach_nothing(monkeypatch):
    asked = []
    monkeypatch.setattr(paging, "estimate_propensities", lambda frame: asked.append({*frame["split"]}))
    reach(Lists(pl.concat([lists([14], split) for split in ("train", "validation", "future")])))
    assert asked == [{"train", "validation"}]


def test_each_page_counts_by_the_chance_that_it_is_asked_for():
    """And a search that ends has no more."""
    shown = [["a", "x"], ["b", "c"], ["d"]]
    asked = []

    def search(request):
        asked.append(request.cursor)
        number = int(request.cursor or 0)
        hits = [SimpleNamespace(product={"product_id": product}) for product in shown[number]]
        return SimpleNamespace(hits=hits, cursor=str(number + 1) if number < 2 else None)

    query = GoldenQuery("q", None, "head", None, {"b": 1.0, "c": 0.0}, frozenset("acde"))
    row = paging._paged(SimpleNamespace(search=search), query, 1.0, np.array([1, 0.5, 0.2, 0.1]))
    assert asked == [None, "1", "2"]
    assert row["engaged"] == pytest.approx((1 + 0.5 + 0.2) / 4) and row["relevant"] == pytest.approx(0.5)
    assert row["cpu_ms"] > 0 and row["first_ms"] > 0
    assert row["first_precision"] in (0, 0.5, 1) or np.isnan(row["first_precision"])


def test_each_policy_is_compared_once():
    first, later = Effort(ef_search=64, candidates=50), Effort(ef_search=64, candidates=1000)
    found = policies(first, later, RetrievalPolicy())
    assert [*found] == ["deeper later", "usual", "first throughout", "later throughout"], "the deepest is the later"
    assert found["deeper later"] == (first, later, later) and found["later throughout"] == (later,)
    assert found["usual"] == RetrievalPolicy().pages


class Bench:
    """What a replay asks of it; its searchers are the policies themselves."""

    golden = SimpleNamespace(queries=[GoldenQuery("q", None, "head", None, {}, frozenset("ab"))] * 8, relevant_grade=1)
    weights_RQ = resample(8, 0, 50)

    def searcher(self, pages, stages):
        return pages


@pytest.mark.parametrize(
    ("costs", "seen", "late", "chosen"),
    [
        ({"deeper later": 5, "usual": 6}, {}, (), "deeper later"),
        ({"deeper later": 5, "usual": 5}, {}, (), "deeper later"),
        ({"deeper later": 6, "usual": 5}, {}, (), "usual"),
        ({"deeper later": 6, "usual": 5}, {"usual": 0.5}, (), "deeper later"),
        ({"deeper later": 5, "usual": 6}, {}, ("deeper later",), "usual"),
        ({"deeper later": 5, "usual": 6}, {}, ("deeper later", "usual"), None),
    ],
)
def test_the_cheapest_policy_that_shows_as_much_and_keeps_to_the_constraints(monkeypatch, costs, seen, late, chosen):
    def paged(searcher, query, relevant_grade, chances_P):
        (name,) = searcher
        shown, first_ms = seen.get(name, 0.9), 99.0 if name in late else 1.0
        return {
            "cpu_ms": costs[name],
            "engaged": shown,
            "relevant": np.nan,
            "first_ms": first_ms,
            "first_precision": 1.0,
        }

    monkeypatch.setattr(paging, "_paged", paged)
    compared, reached = {name: (name,) for name in costs}, Reach(np.ones(1), "lengths", None)
    found = replay(Bench(), reached, compared, "none", lambda each: each.first_p99_ms < 9)
    assert found.chosen == chosen
    if chosen:
        (other,) = {*costs} - {chosen}
        assert found.differences[other, "cpu_ms"][0] == costs[other] - costs[chosen]
        assert (chosen, "cpu_ms") not in found.differences and (other, "relevant") not in found.differences
