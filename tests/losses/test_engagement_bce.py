from __future__ import annotations

import math

import pytest
import torch

from mercato.losses.engagement_bce import engagement_bce

COSINE = torch.tensor([0.9, 0.1, -0.4], dtype=torch.float64)
ENGAGED = torch.tensor([True, False, False])


def by_hand(scale: float, threshold: float) -> float:
    likely = [1 / (1 + math.exp(-scale * (cosine - threshold))) for cosine in COSINE.tolist()]
    return -(math.log(likely[0]) + math.log(1 - likely[1]) + math.log(1 - likely[2])) / 3


@pytest.mark.parametrize(("scale", "threshold"), [(20.0, 0.0), (5.0, 0.3)])
def test_by_hand(scale, threshold):
    assert engagement_bce(COSINE, ENGAGED, scale, threshold).item() == pytest.approx(by_hand(scale, threshold))
    assert engagement_bce(COSINE, ENGAGED.double(), scale, threshold) == engagement_bce(
        COSINE, ENGAGED, scale, threshold
    )


def test_as_printed_there_is_no_threshold():
    assert engagement_bce(COSINE, ENGAGED, 20.0).item() == pytest.approx(by_hand(20.0, 0.0))


def test_the_mean_of_one_row_is_that_row():
    row = engagement_bce(COSINE[:1], ENGAGED[:1], 2.0).item()
    assert row == pytest.approx(-math.log(1 / (1 + math.exp(-2 * 0.9))))


def test_a_learned_threshold_lets_what_is_relevant_be_unlikely():
    """As printed a shown pair is only unlikely below cos = 0; the threshold moves up until .5 is unlikely too."""
    cosine, threshold = torch.tensor([0.9, 0.5]), torch.zeros((), requires_grad=True)
    loss = engagement_bce(cosine, torch.tensor([1.0, 0.0]), 20.0, threshold)
    loss.backward()
    assert threshold.grad < 0  # a step against it raises the threshold
    assert engagement_bce(cosine, torch.tensor([1.0, 0.0]), 20.0, 0.7) < 0.1 < loss


def test_it_stays_finite_far_from_the_truth_and_has_nothing_to_say_of_no_rows():
    cosine = torch.tensor([-1.0, 1.0], requires_grad=True)
    loss = engagement_bce(cosine, torch.tensor([True, False]), 1e4)
    loss.backward()
    assert loss.isfinite() and cosine.grad.isfinite().all()
    assert engagement_bce(torch.zeros(0), torch.zeros(0), 20.0).item() == 0
