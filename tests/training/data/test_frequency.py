"""The streaming frequency estimate against its equations, step by step."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mercato.training.data.frequency import StreamingFrequency


def items(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers)


def test_the_update_of_a_small_stream():
    estimate = StreamingFrequency(buckets=8, rate=0.5, gap=4.0)
    estimate.update(items(1, 2))  # t = 1
    assert estimate.gap_H.tolist()[:4] == [4, 0.5 * 4 + 0.5 * (1 - 0), 2.5, 4] and estimate.last_H.tolist()[:3] == [
        0,
        1,
        1,
    ]
    estimate.update(items(2, 2))  # t = 2, twice in a batch is once
    assert estimate.gap_H.tolist()[:4] == [4, 2.5, 0.5 * 2.5 + 0.5 * (2 - 1), 4]
    estimate.update(items(3))
    estimate.update(items(1))  # t = 4
    assert estimate.gap_H.tolist()[:4] == [4, 0.5 * 2.5 + 0.5 * (4 - 1), 1.75, 0.5 * 4 + 0.5 * 3]
    assert estimate.probability(items(0, 1, 2, 3)).tolist() == pytest.approx([0, 1 / 2.75, 1 / 1.75, 1 / 3.5])


def test_items_of_one_bucket_are_counted_together():
    estimate = StreamingFrequency(buckets=4, rate=0.5, gap=4.0)
    estimate.update(items(1, 5))
    assert estimate.gap_H.tolist() == [4, 2.5, 4, 4]
    assert estimate.probability(items(1, 5, 9)).tolist() == pytest.approx([0.4] * 3)


def test_no_probability_is_above_one():
    estimate = StreamingFrequency(buckets=1, rate=0.9, gap=0.0)
    estimate.update(items(0))
    assert estimate.probability(items(0)).tolist() == [1.0]


def test_it_comes_near_what_is_true():
    estimate = StreamingFrequency(buckets=2, rate=0.02, gap=5.0)
    chances, generator = np.array([0.5, 0.1]), np.random.default_rng(0)
    for _ in range(2_000):
        estimate.update(torch.from_numpy(np.flatnonzero(generator.random(2) < chances)))
    assert estimate.probability(items(0, 1)).numpy() == pytest.approx(chances, rel=0.3)


def test_its_state_is_kept():
    one, other = (StreamingFrequency(buckets=4, rate=0.1, gap=gap) for gap in (2.0, 9.0))
    one.update(items(1))
    other.load_state_dict(one.state_dict())
    for estimate in (one, other):
        estimate.update(items(1, 2))
    assert torch.equal(one.gap_H, other.gap_H) and torch.equal(one.last_H, other.last_H)
