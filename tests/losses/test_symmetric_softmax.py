from __future__ import annotations

import math

import pytest
import torch

from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.losses.symmetric_softmax import symmetric_softmax

COSINE = torch.tensor([[0.9, 0.2], [0.1, 0.3]], dtype=torch.float64)
NOTHING = torch.zeros(2, 2, dtype=torch.bool)


def test_by_hand():
    def part(own: float, other: float) -> float:
        return -math.log(math.exp(5 * own) / (math.exp(5 * own) + math.exp(5 * other)))

    rows = (part(0.9, 0.2) + part(0.3, 0.1)) / 2
    columns = (part(0.9, 0.1) + part(0.3, 0.2)) / 2
    assert symmetric_softmax(COSINE, NOTHING, 5.0).item() == pytest.approx((rows + columns) / 2)


def test_it_is_the_same_read_the_other_way():
    mask = NOTHING.clone()
    mask[0, 1] = True
    assert symmetric_softmax(COSINE, mask, 5.0) == symmetric_softmax(COSINE.T, mask.T, 5.0)
    assert symmetric_softmax(COSINE, mask, 5.0) != in_batch_softmax(COSINE, mask, 5.0)
