"""Pretraining as a training task: its batches, the losses of its tasks, what it is validated on."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mercato.config.pretraining import TASKS
from mercato.models.taobao import PretrainingTowers
from mercato.models.tower import TwoTower
from mercato.training.data.pretraining import PretrainingBatch, PretrainingBatches
from mercato.training.task import Losses, Monitor
from mercato.training.tasks.step import Outcome, PretrainingObjective, Step

MONITOR = "validation/loss"
COLLAPSED = 0.9  # mean cosine of two products: their vectors say next to nothing


@dataclass(frozen=True, kw_only=True)
class PretrainingTask:
    """A task (`mercato.training.task`) of several that share one reading of a batch."""

    batches: PretrainingBatches
    validation: PretrainingValidation
    objectives: Mapping[str, tuple[float, PretrainingObjective]]  # by name, with their weights

    def losses(self, towers: TwoTower, batch: PretrainingBatch) -> Losses:
        """The loss of each task of the step that finds something in the batch."""
        assert isinstance(towers, PretrainingTowers)
        found = outcomes(
            towers, batch, {name: own for name, (_, own) in self.objectives.items() if name in batch.tasks}
        )
        losses: Losses = {name: (self.objectives[name][0], outcome.loss) for name, outcome in found.items()}
        return losses or {"nothing": (0.0, towers.hidden_patch_H.sum() * 0)}


def outcomes(
    towers: PretrainingTowers, batch: PretrainingBatch, objectives: Mapping[str, PretrainingObjective]
) -> dict[str, Outcome]:
    """What each task makes of a batch; one that finds nothing in it is absent."""
    step = Step(towers, batch)
    found = {name: objective.outcome(step) for name, objective in objectives.items()}
    return {name: outcome for name, outcome in found.items() if outcome is not None}


@dataclass(frozen=True, kw_only=True)
class PretrainingValidation:
    """Held-out products with their pairs: the loss and accuracy of each task, and whether the vectors collapse."""

    batches: Sequence[PretrainingBatch]
    objectives: Mapping[str, tuple[float, PretrainingObjective]]

    @property
    def monitor(self) -> Monitor:
        """The tasks' losses as shares of a guess's, their weighted mean, the lower the better.

        A share is at most 1: of a handful of held-out pairs a task may know less than nothing, and would outweigh what
        the others learn.
        """
        return Monitor(MONITOR, "min", "share of a guess's loss")

    @torch.inference_mode()
    def scores(self, towers: TwoTower, device: torch.device | str = "cpu") -> dict[str, float]:
        """By task its weight, loss and accuracy, and the loss of a trivial predictor; how alike the vectors are.

        What is drawn (hard negatives) is the same at every call.
        """
        assert isinstance(towers, PretrainingTowers)
        training = towers.training
        towers.eval()
        objectives = {name: own for name, (_, own) in self.objectives.items()}
        found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in objectives}
        vectors = []
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            for batch in self.batches:
                own = batch.to(torch.device(device))
                for name, outcome in outcomes(towers, own, objectives).items():
                    found[name].append((float(outcome.loss), float(outcome.accuracy), float(outcome.trivial)))
                vectors.append(towers.read_items(own.product).vector_BD.cpu())
        towers.train(training)
        scores: dict[str, float] = {}
        shares: list[tuple[float, float]] = []
        for name, rows in found.items():
            if rows:
                weight = self.objectives[name][0]
                loss, accuracy, trivial = np.mean(rows, 0).tolist()
                shares.append((weight, min(1.0, loss / trivial) if math.isfinite(loss) and trivial else loss))
                scores |= {
                    f"{name}/weight": weight,
                    f"{name}/loss": loss,
                    f"{name}/accuracy": accuracy,
                    f"{name}/trivial": trivial,
                }
        weights, told = zip(*shares, strict=True) if shares else ((1.0,), (1.0,))
        return {MONITOR: float(np.average(told, weights=weights))} | scores | spread(torch.cat(vectors))


def spread(vector_MD: Tensor) -> dict[str, float]:
    """How far unit vectors are spread: the mean cosine of two, and their effective rank.

    The effective rank is exp of the entropy of the singular values, as shares of their sum (Roy & Vetterli 2007): D for
    vectors that fill the space, 1 where all are alike.
    """
    if not vector_MD.isfinite().all():
        return {"vectors/mean_cosine": math.nan, "vectors/rank": math.nan}
    count = len(vector_MD)
    mean = (vector_MD.sum(0).square().sum() - count) / max(1, count * (count - 1))
    share = F.normalize(torch.linalg.svdvals(vector_MD), p=1, dim=0)
    entropy = -torch.special.xlogy(share, share).sum()
    return {"vectors/mean_cosine": float(mean), "vectors/rank": float(entropy.exp())}


def best_row(history: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The epoch that was kept."""
    return min(history, key=lambda row: row[MONITOR])


def told(row: Mapping[str, Any]) -> str:
    """What each task told of held-out products in an epoch, for people."""
    return ", ".join(
        f"{name} {row[f'{name}/loss']:.2f} (trivial {row[f'{name}/trivial']:.2f}, {row[f'{name}/accuracy']:.0%} told)"
        for name in TASKS
        if f"{name}/loss" in row
    )
