from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mercato.losses.in_batch_softmax import in_batch_softmax

COSINE = [[0.9, 0.1, -0.3], [0.2, 0.5, 0.4], [0.0, 0.7, 0.6]]
NOTHING = torch.zeros(3, 3, dtype=torch.bool)


def by_hand(excluded: list[tuple[int, int]], scale: float = 15) -> float:
    total = 0.0
    for i in range(3):
        parts = [np.exp(scale * COSINE[i][j]) for j in range(3) if (i, j) not in excluded]
        total -= np.log(np.exp(scale * COSINE[i][i]) / sum(parts))
    return total / 3


@pytest.mark.parametrize("excluded", [[], [(2, 1)], [(0, 1), (0, 2), (1, 2)]])
def test_by_hand(excluded):
    mask = NOTHING.clone()
    for i, j in excluded:
        mask[i, j] = True
    loss = in_batch_softmax(torch.tensor(COSINE, dtype=torch.float64), mask, 15)
    assert loss.item() == pytest.approx(by_hand(excluded), rel=1e-9)


def test_nothing_excluded_is_cross_entropy():
    cosine = torch.tensor(COSINE)
    torch.testing.assert_close(in_batch_softmax(cosine, NOTHING, 20.0), F.cross_entropy(20.0 * cosine, torch.arange(3)))


def test_gradients_raise_the_true_pair_and_lower_its_negatives():
    cosine, mask = torch.tensor(COSINE, requires_grad=True), NOTHING.clone()
    mask[0, 2] = True
    in_batch_softmax(cosine, mask, 20.0).backward()
    assert cosine.grad is not None
    assert (cosine.grad.diagonal() < 0).all()
    assert cosine.grad[0, 2] == 0 and cosine.grad[0, 1] > 0 and cosine.grad[2, 1] > 0


def test_no_negative_no_loss():
    alone = torch.tensor([[0.3]], requires_grad=True)
    loss = in_batch_softmax(alone, torch.zeros(1, 1, dtype=torch.bool), 20.0)
    loss.backward()
    assert loss == 0 and alone.grad == 0
    all_known = ~torch.eye(3, dtype=torch.bool)
    assert in_batch_softmax(torch.tensor(COSINE), all_known, 20.0) == 0
