"""Masked patches: what is told of them, against values computed by hand."""

from __future__ import annotations

import math

import pytest
import torch

from mercato.config.pretraining import MaskedPatches
from mercato.training.tasks.masked_patches import MaskedPatchesTask, PatchTargets

TARGETS = PatchTargets(
    mean_V=torch.tensor([1.0, 2.0]),
    deviation_V=torch.tensor([2.0, 4.0]),
    code_KV=torch.tensor([[0.0, 0.0], [1.0, 1.0]]),
    log_chance_K=torch.tensor([0.25, 0.75]).log(),
    mean_pixels_V=torch.tensor([-0.5, 0.5]),
)
PATCHES = torch.tensor([[3.0, 6.0], [1.0, 2.0]])  # standardised: (1, 1) and (0, 0)


def test_features_are_standardised() -> None:
    task = MaskedPatchesTask(MaskedPatches(target="features"), TARGETS)
    outcome = task.told(torch.tensor([[1.0, 0.0], [0.5, 0.0]]), PATCHES)
    assert outcome.loss.item() == pytest.approx((0 + 1 + 0.25 + 0) / 4)
    assert outcome.trivial.item() == pytest.approx((1 + 1 + 0 + 0) / 4)  # of who always tells the mean patch
    assert outcome.accuracy.item() == pytest.approx(1 - 0.3125 / 0.5)


def test_pixels_are_normalised_within_each_patch() -> None:
    task = MaskedPatchesTask(MaskedPatches(target="pixels"), TARGETS)
    outcome = task.told(torch.tensor([[-1.0, 1.0], [0.0, 1.0]]), PATCHES)  # both patches are (−1, 1)
    assert outcome.loss.item() == pytest.approx((0 + 0 + 1 + 0) / 4)
    assert outcome.trivial.item() == pytest.approx(0.25)  # of who always tells (−.5, .5)


def test_a_patch_of_a_single_colour_is_told_as_zeros() -> None:
    task = MaskedPatchesTask(MaskedPatches(target="pixels"), TARGETS)
    outcome = task.told(torch.zeros(1, 2), torch.tensor([[3.0, 3.0]]))
    assert outcome.loss.item() == 0 and outcome.accuracy.item() == 1


def test_a_number_far_off_does_not_own_the_loss() -> None:
    task = MaskedPatchesTask(MaskedPatches(target="features"), TARGETS)
    outcome = task.told(torch.zeros(1, 2), torch.tensor([[1e9, 2.0]]))
    assert outcome.loss.item() == pytest.approx(10**2 / 2)


def test_codes_are_the_nearest_of_the_codebook() -> None:
    task = MaskedPatchesTask(MaskedPatches(target="codebook", codes=2), TARGETS)
    logits = torch.tensor([[0.0, 1.0], [0.0, 2.0]])  # the codes are 1 and 0
    outcome = task.told(logits, PATCHES)
    told = [math.exp(1) / (1 + math.exp(1)), 1 / (1 + math.exp(2))]
    assert outcome.loss.item() == pytest.approx(-sum(map(math.log, told)) / 2)
    assert outcome.trivial.item() == pytest.approx(-(math.log(0.75) + math.log(0.25)) / 2)
    assert outcome.accuracy.item() == 0.5
