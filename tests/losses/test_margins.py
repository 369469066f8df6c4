"""AM-softmax and ArcFace against values computed by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch

from mercato.losses.am_softmax import am_softmax
from mercato.losses.arcface import arcface
from mercato.losses.in_batch_softmax import in_batch_softmax

Loss = Callable[[torch.Tensor, torch.Tensor, float, float], torch.Tensor]

COSINE = torch.tensor([[0.8, 0.1, 0.3], [0.2, -0.9, 0.0]])  # two pairs, and a third column that is nobody's own
NOTHING = torch.zeros(2, 3, dtype=torch.bool)


def _cross_entropy(own: float, others: list[float]) -> float:
    return -math.log(math.exp(own) / (math.exp(own) + sum(map(math.exp, others))))


def test_am_softmax_takes_its_margin_from_the_own_cosine_alone() -> None:
    first = _cross_entropy(10 * (0.8 - 0.35), [10 * 0.1, 10 * 0.3])
    second = _cross_entropy(10 * (-0.9 - 0.35), [10 * 0.2, 10 * 0.0])
    assert am_softmax(COSINE, NOTHING, 10, 0.35).item() == pytest.approx((first + second) / 2, rel=1e-5)


def test_arcface_turns_the_own_angle() -> None:
    first = _cross_entropy(10 * math.cos(math.acos(0.8) + 0.5), [10 * 0.1, 10 * 0.3])
    second = _cross_entropy(10 * (-0.9 - 0.5 * math.sin(0.5)), [10 * 0.2, 10 * 0.0])  # past π − m
    assert math.acos(-0.9) > math.pi - 0.5
    assert arcface(COSINE, NOTHING, 10, 0.5).item() == pytest.approx((first + second) / 2, rel=1e-5)


@pytest.mark.parametrize("loss", [am_softmax, arcface])
def test_without_a_margin_it_is_the_in_batch_softmax(loss: Loss) -> None:
    plain = in_batch_softmax(COSINE, NOTHING, 10)
    torch.testing.assert_close(loss(COSINE, NOTHING, 10, 0.0), plain)


@pytest.mark.parametrize("loss", [am_softmax, arcface])
def test_known_positives_are_no_negatives(loss: Loss) -> None:
    known = torch.tensor([[False, False, True], [False, False, False]])
    near = COSINE.clone()
    near[0, 2] = 0.99
    torch.testing.assert_close(loss(near, known, 10, 0.2), loss(COSINE, known, 10, 0.2))


def test_arcface_has_a_gradient_where_the_own_cosine_is_one() -> None:
    cosine = torch.eye(2, requires_grad=True)
    arcface(cosine, torch.zeros(2, 2, dtype=torch.bool), 20, 0.5).backward()
    assert cosine.grad is not None and cosine.grad.isfinite().all()
