from __future__ import annotations

import pytest

from mercato.benchmarks.serve.report import ALL, ONE, OPEN, budget


def report(products, **figures):
    rows = [
        {"phase": ONE, "kind": ALL, "p50_ms": 4.0},
        {"phase": OPEN, "kind": ALL, "p99_ms": figures.pop("p99_ms", 15.0), "refused": 0, "failed": 0},
    ]
    measured = {
        "ranked": False,
        "in_process": {"p99_ms": 4.0},
        "capacity_per_s": 300.0,
        "start_s": 5.0,
        "memory": {"pss_mb": 400.0},
        "upsert_found": {"p99_ms": 1000.0},
    }
    return {"products": products, "rows": rows} | measured | figures


def missed(found):
    return [line["what"] for line in found["budget"] if line["met"] is False]


def test_figures_at_the_bounds_meet_them():
    assert budget(report(100_000))["met"] and budget(report(1_000_000, p99_ms=30.0))["met"]


@pytest.mark.parametrize(
    ("figure", "value", "what"),
    [
        ("p99_ms", 15.1, "p99 at 70 % of capacity, ms"),
        ("capacity_per_s", 299.9, "searches/s, four clients"),
        ("in_process", {"p99_ms": 4.1}, "in process, one thread, p99 ms"),
        ("memory", {"pss_mb": 401.0}, "memory (PSS), MB"),
        ("start_s", 5.1, "cold start, s"),
        ("upsert_found", {"p99_ms": 1000.1}, "upsert acknowledged → found, p99 ms"),
    ],
)
def test_each_bound_can_be_missed(figure, value, what):
    found = budget(report(100_000, **{figure: value}))
    assert missed(found) == [what] and not found["met"]


def test_a_ranked_search_may_take_longer():
    ranked = {"ranked": True, "capacity_per_s": 200.0, "in_process": {"p99_ms": 12.0}}
    assert budget(report(100_000, **ranked))["met"]
    found = budget(report(100_000, **ranked | {"capacity_per_s": 199.9, "in_process": {"p99_ms": 12.1}}))
    assert missed(found) == ["searches/s, four clients", "in process, one thread, p99 ms"]


def test_a_million_products_are_held_to_fewer_bounds():
    found = budget(report(1_000_000, p99_ms=30.1, capacity_per_s=1.0, start_s=99.0, memory={"pss_mb": 9e9}))
    assert missed(found) == ["p99 at 70 % of capacity, ms"]


def test_what_was_not_measured_is_not_met():
    found = budget(report(100_000, memory=None))
    assert not found["met"] and missed(found) == []
