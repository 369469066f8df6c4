"""One stage of any task: batches that are no pairs, another metric, parameters of the task's own."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor, nn

from mercato.config.stages import InBatchSoftmax
from mercato.models.tower import TwoTower
from mercato.training.data.prepare import Prepared
from mercato.training.stage import is_done, run_stage
from mercato.training.task import Epochs, Losses, Monitor
from tests.support.tasks import towers


@dataclass(frozen=True)
class Numbers:
    """Three numbers, and no pair in sight."""

    value_N: Tensor

    def __len__(self) -> int:
        return len(self.value_N)

    def to(self, device: torch.device) -> Numbers:
        return Numbers(self.value_N.to(device))


class NumberEpochs(Epochs[Numbers]):
    def __len__(self) -> int:
        return 2

    def __iter__(self) -> Iterator[Numbers]:
        for number in range(2):
            yield Numbers(torch.full((3,), float(self.seed + self.epoch + number)))


class ByTheBook:
    """A validation with scores written down beforehand, the lower the better."""

    monitor = Monitor("validation/error", "min", "error")

    def __init__(self, scores: list[float]) -> None:
        self.left = iter(scores)

    def scores(self, towers: TwoTower, device: torch.device | str = "cpu") -> dict[str, float]:
        return {"validation/error": next(self.left)}


class Shrink(nn.Module):
    """Bring the mean square of the query's token embeddings down, times a parameter of the task's own."""

    def __init__(self, validation: ByTheBook | None) -> None:
        super().__init__()
        self.batches, self.validation = NumberEpochs(seed=1), validation
        self.factor = nn.Parameter(torch.ones(()))

    def losses(self, towers: TwoTower, batch: Numbers) -> Losses:
        assert towers.query.text is not None
        weights = torch.cat([p.flatten() for p in towers.query.text.backbone.parameters()])
        return {"shrink": (1.0, self.factor * weights.square().mean() * batch.value_N.mean())}


def run(prepared: Prepared, task: Shrink, folder: Path, epochs: int = 9) -> list[dict]:
    rows: list[dict] = []
    stage = InBatchSoftmax(epochs=epochs, patience=2)
    run_stage(
        towers(prepared), stage=stage, task=task, folder=folder / "stage", logger=TensorBoardLogger(folder),
        half=False, log_epoch=rows.append,
    )  # fmt: skip
    return rows


def test_the_lowest_is_the_best_where_the_monitor_says_so(prepared, tmp_path):
    rows = run(prepared, Shrink(ByTheBook([3.0, 2.0, 2.5, 1.0, 1.0, 1.5])), tmp_path)
    assert [row["best"] for row in rows] == [True, True, False, True, False, False]
    assert [row["validation/error"] for row in rows] == [3.0, 2.0, 2.5, 1.0, 1.0, 1.5], "patience: two epochs"
    assert is_done(tmp_path / "stage")


def test_a_nan_is_never_the_best(prepared, tmp_path):
    rows = run(prepared, Shrink(ByTheBook([2.0, float("nan"), 1.0])), tmp_path, epochs=2)
    assert [row["best"] for row in rows[:2]] == [True, False]


def test_a_tasks_own_parameters_learn(prepared, tmp_path):
    task = Shrink(None)
    rows = run(prepared, task, tmp_path, epochs=2)
    assert [row["epoch"] for row in rows] == [1, 2] and all(row["best"] for row in rows)
    assert task.factor < 1
    assert rows[1]["loss"] == pytest.approx(rows[0]["loss"] * 5 / 3, rel=0.1), "epochs 0 and 1 draw 1, 2 and 2, 3"
