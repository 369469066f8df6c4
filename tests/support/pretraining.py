"""Pretraining of a toy market, up to what it reads."""

from __future__ import annotations

from typing import Any

import pytest

from mercato.config import Recipe
from mercato.data.market import Market
from mercato.models.taobao import PretrainingTowers
from mercato.training import pretrain
from mercato.training.tasks.pretraining import PretrainingTask

TEXT = 'pretraining={epochs=3, batch_size=16, channels=["title_text"], held_out=0.2, learning_rate=1e-2}'


def task_of(market: Market, recipe: Recipe) -> PretrainingTask:
    """The task as pretraining builds it."""
    found: list[PretrainingTask] = []

    def stop(towers: PretrainingTowers, *, task: PretrainingTask, **_: Any) -> None:
        found.append(task)
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain, "run_stage", stop)
        pretrain.pretrained(market, recipe)
    return found[0]
