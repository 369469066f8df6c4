from __future__ import annotations

import math

import pytest
import torch

from mercato.losses.cosent import cosent


def test_by_hand():
    cosine, grade = torch.tensor([0.8, 0.5, 0.6], dtype=torch.float64), torch.tensor([1.0, 0.4, 0.0])
    # better over worse: (0 over 1), (0 over 2), (1 over 2)
    expected = math.log(1 + math.exp(2 * (0.5 - 0.8)) + math.exp(2 * (0.6 - 0.8)) + math.exp(2 * (0.6 - 0.5)))
    assert cosent(cosine, grade, 2.0).item() == pytest.approx(expected)


def test_alike_grades_teach_nothing():
    cosine = torch.tensor([0.8, -0.5], requires_grad=True)
    cosent(cosine, torch.ones(2), 20.0).backward()
    assert cosine.grad.tolist() == [0, 0]


def test_the_order_is_what_it_learns():
    cosine, grade = torch.zeros(4, requires_grad=True), torch.tensor([0.0, 1.0, 0.4, 0.4])
    optimizer = torch.optim.SGD([cosine], 0.01)
    for _ in range(50):
        optimizer.zero_grad()
        cosent(cosine, grade, 20.0).backward()
        optimizer.step()
    worst, best, *middle = cosine.tolist()
    assert worst < min(middle) and max(middle) < best and middle[0] == pytest.approx(middle[1])
