"""What numbers a generator can give draw which rows; how often, `test_batches` counts."""

from __future__ import annotations

import numpy as np
import pytest

from mercato.training.data.sampling import Pool, QueryPool

LARGEST = 1 - 2**-53  # that a generator gives


class Given:
    """A generator whose numbers are known."""

    def __init__(self, *numbers):
        self.numbers_B = np.array(numbers)

    def random(self, count):
        assert count == len(self.numbers_B)
        return self.numbers_B


def test_a_number_on_a_border_draws_the_row_above_it_and_none_a_row_without_weight():
    rows_K, weight_K = np.array([10, 11, 12, 13]), np.array([0.0, 1, 0, 3])
    numbers = Given(0.0, np.nextafter(0.25, 0), 0.25, LARGEST)
    assert Pool.of(rows_K, weight_K).draw(4, numbers).tolist() == [11, 11, 13, 13]
    pool = QueryPool.of(rows_K, np.zeros(4, int), weight_K, 1)
    assert pool.draw(np.zeros(4, int), numbers).tolist() == [11, 11, 13, 13]


@pytest.mark.parametrize("total", np.random.default_rng(0).lognormal(sigma=9, size=20).tolist())
def test_the_largest_number_draws_the_last_row(total):
    assert Pool.of(np.array([10, 11]), np.array([total / 2, total / 2])).draw(1, Given(LARGEST)).tolist() == [11]


def test_a_draw_stays_within_its_query_where_a_sum_is_rounded():
    pool = QueryPool.of(np.array([10, 11, 12]), np.arange(3), np.array([1e6, 1, 1]), 3)
    assert 1e6 + LARGEST == 1e6 + 1
    assert pool.draw(np.array([1]), Given(LARGEST)).tolist() == [11]


def test_pairs_of_a_query_keep_their_order_so_that_a_seed_draws_the_same_on_every_machine():
    rows_K = np.arange(1000)
    assert QueryPool.of(rows_K, rows_K % 3, None, 3).rows_K.tolist() == [
        *range(0, 1000, 3),
        *range(1, 1000, 3),
        *range(2, 1000, 3),
    ]
