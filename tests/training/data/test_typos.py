from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mercato.training.data.typos import misspell


@given(st.text(max_size=30), st.integers(0, 2**32))
def test_a_slip_is_small_and_keeps_the_beginning(query: str, seed: int) -> None:
    slipped = misspell(query, np.random.default_rng(seed))
    if len(query) < 4:
        assert slipped == query
        return
    assert slipped[0] == query[0]
    assert abs(len(slipped) - len(query)) <= 1
    assert set(slipped) <= set(query)


def test_all_kinds_of_slips_happen_and_by_the_seed_alone() -> None:
    generator = np.random.default_rng(0)
    slips = {misspell("bicycle", generator) for _ in range(500)}
    assert {"bciycle", "bicyce", "biicycle", "bycicle"} <= slips
    assert misspell("bicycle", np.random.default_rng(5)) == misspell("bicycle", np.random.default_rng(5))
