from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mercato.config.stages import BaseStage, InBatchSoftmax
from mercato.training.optimizer import DenseAndSparse, clip, schedule


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


class Embedded(nn.Module):
    """A sparse table and a dense layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table, self.layer = nn.Embedding(6, 3, padding_idx=0, sparse=True), nn.Linear(3, 2)

    def step(self, optimizer: torch.optim.Optimizer, *ids: int, largest: float = 1e9) -> None:
        optimizer.zero_grad()
        self.layer(self.table(torch.tensor(ids))).square().sum().backward()
        clip(self.parameters(), largest)
        optimizer.step()


def both(model: Embedded) -> DenseAndSparse:
    dense = torch.optim.Adam(model.layer.parameters(), 0.1)
    return DenseAndSparse(dense, torch.optim.SparseAdam(list(model.table.parameters()), 0.1))


def test_sparse_gradients_touch_the_rows_that_were_read_alone():
    model = Embedded()
    optimizer, before = both(model), model.table.weight.detach().clone()
    for ids in [(0, 2, 2), (4, 2)]:
        model.step(optimizer, *ids)
        assert model.table.weight.grad.is_sparse
    changed = (model.table.weight.detach() != before).any(1)
    assert changed.tolist() == [False, False, True, False, True, False]
    state = next(iter(optimizer.state_dict()["sparse"]["state"].values()))
    assert state["exp_avg"].any(1).tolist() == changed.tolist()


def test_a_schedule_reaches_both():
    model = Embedded()
    optimizer = both(model)
    scheduler = schedule(optimizer, InBatchSoftmax(decay=True), 4)
    seen = []
    for _ in range(4):
        model.step(optimizer, 1)
        seen.append([group["lr"] for part in optimizer.parts for group in part.param_groups])
        scheduler.step()
    assert seen == [[pytest.approx(0.1 * left)] * 2 for left in (1.0, 0.75, 0.5, 0.25)]


def test_resumed_it_goes_on_as_if_unbroken():
    unbroken, resumed = Embedded(), Embedded()
    one, other = both(unbroken), both(resumed)
    for model, optimizer in ((unbroken, one), (resumed, other)):
        model.step(optimizer, 1, 2)
    fresh = both(resumed)
    scheduler = schedule(fresh, InBatchSoftmax(decay=True), 2)
    fresh.load_state_dict(copy.deepcopy(other.state_dict()))
    assert fresh.param_groups == [group for part in fresh.parts for group in part.param_groups]
    for model, optimizer in ((unbroken, one), (resumed, fresh)):
        model.step(optimizer, 2, 5)
    assert all(torch.equal(a, b) for a, b in zip(unbroken.parameters(), resumed.parameters(), strict=True))
    scheduler.step()
    assert {group["lr"] for part in fresh.parts for group in part.param_groups} == {0.05}


@pytest.mark.parametrize("largest", [0.01, 1e9])
def test_the_norm_of_sparse_and_dense_gradients_is_clipped_as_if_all_were_dense(largest):
    gradients = []
    for sparse in (True, False):
        model = Embedded()
        model.table.sparse = sparse
        model.layer(model.table(torch.tensor([1, 1, 4, 0]))).square().sum().backward()
        if sparse:
            clip(model.parameters(), largest)
        else:
            torch.nn.utils.clip_grad_norm_(model.parameters(), largest)
        gradients.append([parameter.grad.to_dense() for parameter in model.parameters()])
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other)
