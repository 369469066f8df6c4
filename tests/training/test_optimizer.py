from __future__ import annotations

import pytest
import torch
from torch import nn

from mercato.config.stages import BaseStage, InBatchSoftmax
from mercato.training.optimizer import schedule


def rates(stage: BaseStage, steps: int) -> list[float]:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 1.0)
    scheduler = schedule(optimizer, stage, steps)
    seen = []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_rates_stand_still_unless_told():
    assert rates(InBatchSoftmax(), 5) == [1.0] * 5


def test_rates_fall_in_a_straight_line():
    assert rates(InBatchSoftmax(decay=True), 4) == pytest.approx([1.0, 0.75, 0.5, 0.25])


def test_rates_rise_then_fall():
    assert rates(InBatchSoftmax(warmup=0.4), 10) == pytest.approx([0.2, 0.4, 0.6, 0.8, *[1.0] * 6])
    assert rates(InBatchSoftmax(warmup=0.4, decay=True), 10) == pytest.approx(
        [0.2, 0.4, 0.6, 0.8, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    )
    assert max(rates(InBatchSoftmax(warmup=1.0), 10)) < 1 and min(rates(InBatchSoftmax(warmup=1.0, decay=True), 10)) > 0
