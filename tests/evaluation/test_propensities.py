"""On a simulated click log: nothing is randomised, but the engine's scores change a little from day to day."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mercato.evaluation.propensities import FLOOR, at, estimate_propensities

POSITIONS = 8


def click_log(truth, days=60, queries=150, jitter=0.25, seed=0):
    """Lists of `POSITIONS` of ten products, best first by relevance and the day's whim."""
    rng = np.random.default_rng(seed)
    rows = []
    for query in range(queries):
        relevance = rng.uniform(0.05, 0.9, 10)
        for _ in range(days):
            order = np.argsort(-(relevance + rng.normal(0, jitter, 10)))[:POSITIONS]
            clicked = (rng.random(POSITIONS) < truth) & (rng.random(POSITIONS) < relevance[order])
            rows += [
                (f"q{query}", None, f"p{product}", place + 1, int(click) * 2)
                for place, (product, click) in enumerate(zip(order, clicked, strict=True))
            ]
    columns = {"query": pl.String, "country": pl.String, "product_id": pl.String, "position": pl.Int64}
    frame = pl.DataFrame(rows, schema=columns | {"depth": pl.Int64}, orient="row")
    return frame.with_columns(placed_by=pl.lit(None, pl.String))


@pytest.fixture(scope="module")
def log():
    return click_log(np.arange(1, POSITIONS + 1) ** -0.7)


def test_the_log_tells_how_likely_each_position_is_looked_at(log):
    truth = np.arange(1, POSITIONS + 1) ** -0.7
    found = estimate_propensities(log)
    assert found[0] == 1
    np.testing.assert_allclose(found, truth, atol=0.04)
    rates = log.group_by("position").agg((pl.col("depth") > 0).mean()).sort("position")["depth"].to_numpy()
    assert np.abs(rates / rates[0] - truth).max() > 0.1  # rates alone blame the position for relevance


def test_no_order_is_forced():
    truth = np.array([1, 0.4, 0.7, 0.4, 0.9, 0.5, 0.5, 0.5])
    np.testing.assert_allclose(estimate_propensities(click_log(truth)), truth, atol=0.06)


def test_later_positions_are_as_the_last_known_one_and_none_is_under_the_floor(log):
    found = estimate_propensities(log.with_columns(depth=pl.when(pl.col("position") < 6).then("depth").otherwise(0)))
    assert len(found) == 5
    np.testing.assert_array_equal(at(found, np.array([1, 5, 6, 900])), found[[0, 4, 4, 4]])
    steep = estimate_propensities(click_log(np.array([1, 0.5, 0.03, 0.03, 0.03, 0.03, 0.03, 0.03]), queries=300))
    assert steep.min() == FLOOR
    gap = estimate_propensities(log.with_columns(depth=pl.when(pl.col("position") == 3).then(0).otherwise("depth")))
    assert len(gap) == POSITIONS and gap[2] == gap[1] != gap[3]


def test_open_outcomes_say_nothing(log):
    some = pl.int_range(pl.len()) % 5 > 0
    opened = log.with_columns(depth=pl.when(some).then("depth"))
    np.testing.assert_array_equal(estimate_propensities(opened), estimate_propensities(log.filter(some)))


def test_where_nothing_moved_nothing_is_known(log):
    still = log.with_columns(product_id=pl.format("p{}", "position"))
    assert estimate_propensities(still) is None
    assert estimate_propensities(log.clear()) is None
    assert estimate_propensities(log.filter(pl.col("position") > 1)) is None


@pytest.mark.parametrize("placed_by", ["pin", "exploration"])
def test_what_the_order_did_not_place_tells_nothing_of_a_position(log, placed_by):
    """Here all of it is clicked, for the badge beside it."""
    some = (pl.col("position") == 5) & (pl.col("product_id") == "p3")
    placed = log.with_columns(
        placed_by=pl.when(some).then(pl.lit(placed_by)), depth=pl.when(some).then(1).otherwise("depth")
    )
    np.testing.assert_array_equal(estimate_propensities(placed), estimate_propensities(log.filter(~some)))
