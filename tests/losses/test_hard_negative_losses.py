"""The losses of Que2Search's second stage, by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mercato.losses.hardest_negative import hardest_negative
from mercato.losses.margin_ranking import margin_ranking
from mercato.losses.scaled_bce import scaled_bce

COSINE = torch.tensor([[0.9, 0.2, 0.85], [0.1, 0.3, 0.5], [-0.2, 0.4, 0.8]], dtype=torch.float64)
NOTHING = torch.zeros(3, 3, dtype=torch.bool)


def excluded(*places: tuple[int, int]) -> torch.Tensor:
    mask = NOTHING.clone()
    for place in places:
        mask[place] = True
    return mask


def test_the_hardest_negative_is_the_highest_off_the_diagonal():
    positive, negative = hardest_negative(COSINE, NOTHING)
    assert positive.tolist() == [0.9, 0.3, 0.8]
    assert negative.tolist() == [0.85, 0.5, 0.4]


def test_a_true_positive_is_never_the_hardest_negative():
    positive, negative = hardest_negative(COSINE, excluded((0, 2)))
    assert negative.tolist() == [0.2, 0.5, 0.4]
    positive, negative = hardest_negative(COSINE, excluded((1, 0), (1, 2)))  # row 1 has no negative left
    assert positive.tolist() == [0.9, 0.8] and negative.tolist() == [0.85, 0.4]


@pytest.mark.parametrize(("reduction", "expected"), [("sum", 0.05 + 0.3 + 0), ("mean", 0.35 / 3)])
def test_margin_ranking(reduction, expected):
    # margin .1: row 0 leads by .05 only, row 1 trails by .2, row 2 leads by .4.
    assert margin_ranking(COSINE, NOTHING, 0.1, reduction).item() == pytest.approx(expected)


def test_margin_ranking_pulls_the_pair_and_pushes_the_hardest_alone():
    cosine = COSINE.clone().requires_grad_()
    margin_ranking(cosine, NOTHING, 0.1).backward()
    assert cosine.grad.tolist() == [[-1, 0, 1], [0, -1, 1], [0, 0, 0]]


def test_scaled_bce():
    def likely(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    rows = [(0.9, 0.85), (0.3, 0.5), (0.8, 0.4)]
    expected = sum(-math.log(likely(2 * p)) - math.log(1 - likely(2 * n)) for p, n in rows) / 3
    assert scaled_bce(COSINE, NOTHING, 2.0).item() == pytest.approx(expected)


def test_scaled_bce_neither_overflows_nor_rewards_a_likely_negative():
    far = torch.tensor([[1.0, 1.0], [-1.0, 1.0]], requires_grad=True)
    loss = scaled_bce(far, torch.zeros(2, 2, dtype=torch.bool), 1e4)
    loss.backward()
    assert loss.item() == pytest.approx(1e4 / 2) and far.grad[0, 1] > 0  # the misprint's sign would be negative


def test_the_mean_of_the_only_row_with_a_negative_is_that_row():
    only_the_second = excluded((0, 1), (0, 2), (2, 0), (2, 1))  # .3 against .5
    assert margin_ranking(COSINE, only_the_second, 0.1, "mean").item() == pytest.approx(0.3)
    expected = math.log(1 + math.exp(-0.3)) + math.log(1 + math.exp(0.5))
    assert scaled_bce(COSINE, only_the_second, 1.0).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", [margin_ranking, scaled_bce])
def test_a_batch_without_negatives_teaches_nothing(loss):
    cosine = COSINE.clone().requires_grad_()
    value = loss(cosine, ~torch.eye(3, dtype=torch.bool), 0.2)
    value.backward()
    assert value.item() == 0 and not cosine.grad.any()
