from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mercato.training.data.typos import with_typo


@given(st.text(max_size=30), st.integers(0, 2**32))
def test_a_typo_is_small_and_keeps_the_beginning(query: str, seed: int) -> None:
    typed = with_typo(query, np.random.default_rng(seed))
    if len(query) < 4:
        assert typed == query
        return
    assert typed[0] == query[0]
    assert abs(len(typed) - len(query)) <= 1
    assert set(typed) <= set(query)


def test_all_kinds_of_typos_happen_and_by_the_seed_alone() -> None:
    generator = np.random.default_rng(0)
    typos = {with_typo("bicycle", generator) for _ in range(500)}
    assert {"bciycle", "bicyce", "biicycle", "bycicle"} <= typos
    assert with_typo("bicycle", np.random.default_rng(5)) == with_typo("bicycle", np.random.default_rng(5))
