"""What page one is worth: nDCG of its judged products, beside the best of all judged."""

from __future__ import annotations

import numpy as np
import pytest

from mercato.evaluation.metrics.bootstrap import resample
from mercato.experiments.tuning.measuring import Measured, in_turn, page_ndcg
from mercato.experiments.tuning.settings import Setting
from mercato.search.policy import Effort

GRADES = {"a": 3.0, "b": 1.0, "c": 0.0, "d": -1.0}


def test_unjudged_products_are_left_out_and_what_is_not_shown_gains_nothing():
    ideal = 3 + 1 / np.log2(3)
    assert page_ndcg(["a", "b", "c"], GRADES) == pytest.approx(1)
    assert page_ndcg(["x", "a", "y", "b"], GRADES) == pytest.approx(1)
    assert page_ndcg(["c", "a"], GRADES) == pytest.approx(3 / np.log2(3) / ideal)
    assert page_ndcg(["d", "b"], GRADES) == pytest.approx(1 / np.log2(3) / ideal)
    assert page_ndcg([], GRADES) == 0
    assert page_ndcg([*"klmnopqrst", "a", "b"], GRADES) == pytest.approx(1), "whatever room they take on the page"


def test_ten_count():
    grades = {f"p{n}": 1.0 for n in range(12)}
    shown = [*grades]
    assert page_ndcg(shown, grades) == page_ndcg(shown[:10], grades) == pytest.approx(1)
    assert page_ndcg(shown[:9], grades) < 1


def test_a_query_with_nothing_good_says_nothing():
    assert np.isnan(page_ndcg(["c"], {"c": 0.0, "d": -1.0})) and np.isnan(page_ndcg(["c"], {}))


def test_means_leave_out_where_a_figure_is_undefined_and_times_have_quantiles():
    setting = Setting(Effort(ef_search=1, candidates=1), "none")
    values = {
        "recall": np.array([0.5, np.nan, 1.0]),
        "engaged": np.full(3, np.nan),
        "cpu_ms": np.array([1.0, 2.0, 6.0]),
        "wall_ms": np.array([1.0, 2.0, 101.0]),
    }
    found = Measured(setting, values, resample(3, 0, 50))
    assert (found.value("recall"), found.value("engaged")) == (0.75, None) and "engaged" not in found.figures
    assert (found.figures["p50_ms"], found.figures["p99_ms"]) == (2, pytest.approx(99.02))
    assert found.intervals.keys() == {"recall"}
    quicker = found.at_pace(0.5)
    assert (quicker.figures["cpu_ms"], quicker.figures["p50_ms"]) == (1.5, 2)


def test_another_setting_is_the_first_each_time():
    assert [[*in_turn(3, place)] for place in (0, 1, 2, 4)] == [[0, 1, 2], [1, 2, 0], [2, 0, 1], [1, 2, 0]]
