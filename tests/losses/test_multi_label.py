from __future__ import annotations

import math

import pytest
import torch

from mercato.losses.multi_label import multi_label

LOGITS = torch.tensor([[1.0, 0.0, -1.0], [0.0, 2.0, 0.0], [5.0, 5.0, 5.0]], dtype=torch.float64)


def test_each_of_k_classes_has_a_kth_of_the_target():
    total = math.log(math.e + 1 + math.exp(-1))
    first = -((1 - total) / 2 + (-1 - total) / 2)  # classes 0 and 2
    second = -(2 - math.log(2 + math.exp(2)))
    loss = multi_label(LOGITS, torch.tensor([[0, 2], [1, -1], [-1, -1]]))
    assert loss.item() == pytest.approx((first + second) / 2)  # the third product has no query and takes no part


def test_products_without_a_class_teach_nothing():
    logits = LOGITS.clone().requires_grad_()
    loss = multi_label(logits, torch.tensor([[1], [-1], [-1]]))
    loss.backward()
    assert logits.grad[0].any() and not logits.grad[1:].any()
    assert multi_label(LOGITS, torch.full((3, 2), -1)).item() == 0


def test_it_is_least_where_the_classes_share_the_whole():
    shared = torch.tensor([[30.0, -30.0, 30.0]])
    lone = torch.tensor([[30.0, -30.0, -30.0]])
    both = torch.tensor([[0, 2]])
    assert multi_label(shared, both).item() == pytest.approx(math.log(2)) and multi_label(lone, both) > 20
