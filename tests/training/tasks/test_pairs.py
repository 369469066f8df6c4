"""One pass of the encoders for every loss of a batch, also in pieces (gradient caching)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from mercato.config.stages import InBatchSoftmax
from mercato.models.tower import TwoTower
from mercato.training.data.batches import PairBatch, PairBatches
from mercato.training.task import total
from mercato.training.tasks.build import pair_objectives
from mercato.training.tasks.modalities import MULTIMODAL
from mercato.training.tasks.pairs import PairTask
from tests.support.tasks import TITLE, WORDS, batch, losses_of, towers


def gradients(model: TwoTower, data: PairBatch, **of_stage: Any) -> tuple[float, list[torch.Tensor]]:
    model.zero_grad()
    loss = total(losses_of(model, data, **of_stage))
    loss.backward()
    return loss.item(), [torch.zeros(1) if p.grad is None else p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("rows", [1, 5])
def test_a_batch_in_pieces_has_the_loss_and_gradients_of_the_whole(prepared, rows):
    model, data = towers(prepared).eval(), batch(prepared)  # no dropout: it is drawn piece by piece
    more = {"blend": {MULTIMODAL: 1.0, TITLE: 0.5}, "head_weight": 0.1}
    loss, expected = gradients(model, data, **more)
    again, found = gradients(model, data, stage=InBatchSoftmax(micro_batch=rows), **more)
    assert again == pytest.approx(loss, rel=1e-6)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one, rtol=1e-4, atol=1e-6)


def test_a_batch_in_pieces_holds_the_activations_of_one(prepared):
    def held(rows: int | None) -> int:
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.numel()) or t, lambda t: t):
            losses_of(towers(prepared).train(), batch(prepared), InBatchSoftmax(micro_batch=rows))
        return sum(kept)

    assert held(4) < held(None) / 4


def test_dropout_in_pieces_is_the_same_both_ways(prepared):
    """The second forward pass must drop what the first dropped, else the gradients are of another network."""
    model, data = towers(prepared).train(), batch(prepared)
    stage = InBatchSoftmax(micro_batch=4)
    torch.manual_seed(3)
    first = gradients(model, data, stage=stage)
    torch.manual_seed(3)
    loss = total(losses_of(model, data, stage))
    torch.manual_seed(99)  # between the passes somebody else draws
    model.zero_grad()
    loss.backward()
    for one, parameter in zip(first[1], model.parameters(), strict=True):
        torch.testing.assert_close(torch.zeros(1) if parameter.grad is None else parameter.grad, one)


def test_every_loss_shares_one_pass_of_the_encoders(prepared):
    model, stage, examples = towers(prepared), InBatchSoftmax(), prepared.examples
    passes = []
    for tower in (model.query, model.product):
        for encoder in (tower.text.backbone,):
            encoder.register_forward_hook(lambda *_: passes.append(1))
    alone = len(losses_of(model, batch(prepared))), len(passes)
    passes.clear()
    task = PairTask(
        batches=PairBatches(examples, examples.engaged, stage, seed=0),
        validation=None,
        objectives=pair_objectives(stage, {MULTIMODAL: 1.0, TITLE: 0.5, WORDS: 0.5}, head_weight=0.1),
    )
    found = task.losses(model, next(iter(task.batches)))
    assert list(found) == ["multimodal", "product.title", "query.text", "head"]
    assert (1, len(passes)) == alone
