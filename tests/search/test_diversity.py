"""Seller diversity: how many of a seller a page admits."""

from __future__ import annotations

from collections import Counter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from mercato.search.diversity import SellerBound


@given(sellers=st.lists(st.integers(0, 4), max_size=40), most=st.integers(1, 4))
def test_each_seller_s_first_few_are_admitted_and_all_that_are_nobody_s(sellers, most):
    bound, seen = SellerBound(np.array(sellers, np.uint64), most), Counter()
    for place, seller in enumerate(sellers):
        seen[seller] += 1
        assert bound.admits(place) == (seller == 0 or seen[seller] <= most)
