"""What page one is worth: nDCG of its judged products, beside the best of all judged."""

from __future__ import annotations

import numpy as np
import pytest

from mercato.experiments.tuning.measuring import page_ndcg

GRADES = {"a": 3.0, "b": 1.0, "c": 0.0, "d": -1.0}


def test_unjudged_products_are_left_out_and_what_is_not_shown_gains_nothing():
    ideal = 3 + 1 / np.log2(3)
    assert page_ndcg(["a", "b", "c"], GRADES) == pytest.approx(1)
    assert page_ndcg(["x", "a", "y", "b"], GRADES) == pytest.approx(1)
    assert page_ndcg(["c", "a"], GRADES) == pytest.approx(3 / np.log2(3) / ideal)
    assert page_ndcg(["d", "b"], GRADES) == pytest.approx(1 / np.log2(3) / ideal)
    assert page_ndcg([], GRADES) == 0


def test_ten_count():
    grades = {f"p{n}": 1.0 for n in range(12)}
    shown = [*grades]
    assert page_ndcg(shown, grades) == page_ndcg(shown[:10], grades) == pytest.approx(1)
    assert page_ndcg(shown[:9], grades) < 1


def test_a_query_with_nothing_good_says_nothing():
    assert np.isnan(page_ndcg(["c"], {"c": 0.0, "d": -1.0})) and np.isnan(page_ndcg(["c"], {}))
