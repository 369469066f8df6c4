from __future__ import annotations

import numpy as np
import pytest

from mercato.evaluation.metrics.bootstrap import Estimate, resample
from mercato.evaluation.metrics.metric import QueryMean
from mercato.evaluation.metrics.simultaneous import simultaneous_intervals


def estimate(values_Q, weights_RQ):
    return Estimate(float(values_Q.mean()), QueryMean(values_Q)(weights_RQ))


def test_all_intervals_hold_together_about_as_often_as_they_say():
    """Ten differences of two parts, all truly 0: how often every one lies in its interval."""
    rng, together, alone = np.random.default_rng(5), 0, 0
    for trial in range(120):
        parts = []
        for part in range(2):
            weights = resample(60, 2 * trial + part, resamples=200)
            parts.append({(part, place): estimate(rng.normal(0, 1, 60), weights) for place in range(5)})
        found = simultaneous_intervals(parts)
        together += all(low <= 0 <= high for low, high in found.values())
        alone += all(each.interval[0] <= 0 <= each.interval[1] for part in parts for each in part.values())
    assert 0.87 <= together / 120 <= 0.99
    assert alone / 120 < 0.75


def test_one_difference_alone_is_its_ordinary_interval():
    weights = resample(400, 0)
    one = estimate(np.random.default_rng(0).normal(1, 1, 400), weights)
    assert simultaneous_intervals([{"a": one}])["a"] == pytest.approx(one.interval, abs=0.01)


def test_differences_that_move_as_one_are_not_corrected_twice():
    weights = resample(400, 0)
    one = estimate(np.random.default_rng(0).normal(1, 1, 400), weights)
    alone, many = simultaneous_intervals([{"a": one}]), simultaneous_intervals([dict.fromkeys("abcdefgh", one)])
    assert many["h"] == alone["a"]


def test_parts_are_independent_pieces_of_chance():
    deviations = np.linspace(-1, 1, 2001)  # one part: 95 % lie within .95; two: within √.95
    one = Estimate(0.0, deviations)
    error = deviations.std(ddof=1)
    assert error > 0
    assert simultaneous_intervals([{"a": one}])["a"][1] == pytest.approx(0.95, abs=2e-3)
    assert simultaneous_intervals([{"a": one}, {"b": one}])["b"][1] == pytest.approx(0.95**0.5, abs=2e-3)


def test_what_never_moves_and_what_is_undefined_need_no_width():
    same, never = Estimate(0.0, np.zeros(9)), Estimate(0.0, np.full(9, np.nan))
    assert simultaneous_intervals([{"same": same, "never": never}]) == {"same": (0.0, 0.0), "never": None}
    sometimes = Estimate(1.0, np.array([0.0, 2.0, np.nan, 1.0]))
    low, high = simultaneous_intervals([{"a": sometimes, "never": Estimate(0.0, np.full(4, np.nan))}])["a"]
    assert (low, high) == pytest.approx((0, 2))
