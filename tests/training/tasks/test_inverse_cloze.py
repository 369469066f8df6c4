"""ICT: products told by their own words, beside hand-computed losses."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mercato.config.pretraining import InverseCloze
from mercato.losses.am_softmax import am_softmax
from mercato.training.tasks.inverse_cloze import InverseClozeTask

CROPS = F.normalize(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), dim=1)
CROPPED = F.normalize(torch.tensor([[0.9, 0.3], [0.3, 0.8]]), dim=1)  # the items as the task reads them
ITEMS = F.normalize(torch.tensor([[1.0, 0.1], [0.5, 0.5], [0.2, 1.0]]), dim=1)  # two crops' own, then a pair's, whole
STAGE = InverseCloze(weight=1, scale=10.0, margin=0.2)


def _step(pairs: int = 1, crops: int = 2) -> Any:
    holds_CM = torch.tensor([[True, False, False], [False, True, True]])  # the pair's item has the second's words
    return SimpleNamespace(
        batch=SimpleNamespace(
            product_B=torch.tensor([2])[:pairs],
            crops=SimpleNamespace(
                tokens_CL=torch.ones(crops, 3, dtype=torch.int64),
                product_C=torch.tensor([0, 1])[:crops],
                holds_CM=holds_CM[:crops],
            ),
        ),
        crops=SimpleNamespace(vector_BD=CROPS[:crops]),
        cropped_items=SimpleNamespace(vector_BD=CROPPED[:crops]),
        items=SimpleNamespace(vector_BD=ITEMS),
    )


def test_a_crop_s_own_item_is_told_among_the_others_and_those_of_pairs() -> None:
    outcome = InverseClozeTask(STAGE).outcome(_step())
    assert outcome is not None
    cosine_CJ = CROPS @ torch.cat([CROPPED, ITEMS[2:]]).T
    excluded_CJ = torch.tensor([[False, False, False], [False, False, True]])
    torch.testing.assert_close(outcome.loss, am_softmax(cosine_CJ, excluded_CJ, 10, 0.2))
    torch.testing.assert_close(outcome.trivial, am_softmax(torch.zeros(2, 3), excluded_CJ, 10, 0.2))
    assert outcome.accuracy == 1


@pytest.mark.parametrize(("pairs", "crops"), [(1, 0), (0, 1), (0, 0)])
def test_one_item_alone_is_no_choice(pairs: int, crops: int) -> None:
    assert InverseClozeTask(STAGE).outcome(_step(pairs, crops)) is None


@pytest.mark.parametrize(("pairs", "crops"), [(1, 1), (0, 2)])
def test_two_are(pairs: int, crops: int) -> None:
    assert InverseClozeTask(STAGE).outcome(_step(pairs, crops)) is not None
