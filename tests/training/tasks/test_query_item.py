"""QIC: which items are a query's negatives, and what its three losses make of them."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, Literal

import pytest
import torch
import torch.nn.functional as F

from mercato.config.pretraining import QueryItem
from mercato.losses.am_softmax import am_softmax
from mercato.losses.arcface import arcface
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.training.tasks.query_item import QueryItemTask

QUERIES = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), dim=1)
ITEMS = F.normalize(torch.tensor([[0.9, 0.1], [1.0, 0.05], [0.2, 1.0]]), dim=1)
QUERY_B, PRODUCT_B = torch.tensor([0, 0, 1]), torch.tensor([0, 1, 2])  # the first query engaged two items
NOBODY = torch.zeros(0, dtype=torch.int64)
KNOWN = torch.tensor([[True, True, False], [False, False, True]])


def _step(known: torch.Tensor = KNOWN) -> Any:
    return SimpleNamespace(
        batch=SimpleNamespace(query_B=QUERY_B, product_B=PRODUCT_B, unpaired_U=NOBODY, known_QM=known),
        towers=SimpleNamespace(training=True),
        queries=SimpleNamespace(vector_BD=QUERIES),
        items=SimpleNamespace(vector_BD=ITEMS),
    )


@pytest.mark.parametrize("loss", ["am_softmax", "arcface", "softmax"])
def test_a_querys_other_items_are_no_negatives(loss: Literal["am_softmax", "arcface", "softmax"]) -> None:
    outcome = QueryItemTask(QueryItem(loss=loss, scale=10.0, margin=0.2)).outcome(_step())
    excluded = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    cosine = QUERIES[QUERY_B] @ ITEMS.T
    expected = {
        "am_softmax": am_softmax(cosine, excluded, 10, 0.2),
        "arcface": arcface(cosine, excluded, 10, 0.2),
        "softmax": in_batch_softmax(cosine, excluded, 10),
    }[loss]
    assert outcome is not None
    torch.testing.assert_close(outcome.loss, expected)
    assert outcome.accuracy == 1
    alike = torch.zeros_like(cosine)
    guess = {
        "am_softmax": am_softmax(alike, excluded, 10, 0.2),
        "arcface": arcface(alike, excluded, 10, 0.2),
        "softmax": in_batch_softmax(alike, excluded, 10),
    }[loss]
    torch.testing.assert_close(outcome.trivial, guess)


def test_what_is_not_known_is_a_negative() -> None:
    outcome = QueryItemTask(QueryItem()).outcome(_step(torch.zeros(2, 3, dtype=torch.bool)))
    assert outcome is not None and outcome.accuracy == pytest.approx(2 / 3)  # item 1 lies nearer to query 0 than item 0


def test_a_single_pair_has_no_negative() -> None:
    step = _step()
    step.batch.query_B, step.batch.product_B = QUERY_B[:1], PRODUCT_B[:1]
    assert QueryItemTask(QueryItem()).outcome(step) is None


def test_items_without_a_query_are_negatives_of_all() -> None:
    step = _step(torch.tensor([[True, False, False], [False, True, False]]))
    step.batch.query_B, step.batch.product_B = torch.tensor([0, 1]), torch.tensor([0, 2])
    step.batch.unpaired_U = torch.tensor([1])
    outcome = QueryItemTask(QueryItem(loss="softmax", scale=10.0)).outcome(step)
    assert outcome is not None
    excluded = torch.tensor([[False, False, False], [False, False, True]])
    expected = in_batch_softmax(QUERIES @ ITEMS[[0, 2, 1]].T, excluded, 10)
    torch.testing.assert_close(outcome.loss, expected)
    step.batch.query_B, step.batch.product_B = torch.tensor([0]), torch.tensor([0])
    assert QueryItemTask(QueryItem()).outcome(step) is not None, "of a single pair, too"


def test_of_some_items_the_photo_alone_is_read_in_training() -> None:
    step = _step()
    step.has_images = torch.tensor([True, False, True])
    step.images = SimpleNamespace(vector_BD=-ITEMS)
    stage = QueryItem(loss="softmax", scale=10.0, photo_alone=1 - 1e-9)
    excluded = torch.tensor([[False, True, False], [True, False, False], [False, False, False]])
    seen = torch.stack([-ITEMS[0], ITEMS[1], -ITEMS[2]])
    outcome = QueryItemTask(stage).outcome(step)
    assert outcome is not None
    torch.testing.assert_close(outcome.loss, in_batch_softmax(QUERIES[QUERY_B] @ seen.T, excluded, 10))
    step.towers.training = False
    whole = QueryItemTask(stage).outcome(step)
    assert whole is not None
    torch.testing.assert_close(whole.loss, in_batch_softmax(QUERIES[QUERY_B] @ ITEMS.T, excluded, 10))
