"""Weights for gradient blending, estimated (Wang, Tran & Feiszli 2020: what makes multi-modal training hard).

For each of the M + 1 losses a fresh pair of towers trains on that loss alone: a modality's, or all that the stage
learns of both whole towers. What it gains on held-out pairs, G, and
what it overfits, O, give its weight:

    w_k ∝ G_k / O_k²,    G = L_val(before) − L_val(after),    O = [L_val − L_train](after) − [L_val − L_train](before)
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.models.tower import TwoTower
from mercato.progress import track
from mercato.training.data.batches import Examples, PairBatches
from mercato.training.optimizer import adam, clip, half_precision
from mercato.training.task import total
from mercato.training.tasks.build import modality_losses, pair_objectives
from mercato.training.tasks.modalities import MULTIMODAL, Modality
from mercato.training.tasks.pairs import PairTask

HELD_OUT = 0.1  # of the pairs
LEAST_OVERFITTING = 0.05  # of the loss before training: a modality that hardly learns must not divide by nothing


class Trial(NamedTuple):
    """The mean losses of one trial: on held-out pairs and on training pairs, before it trained and after."""

    held_before: float
    seen_before: float
    held_after: float
    seen_after: float

    @property
    def weight(self) -> float:
        """G / O², of any scale; 0 where nothing was gained, such as where no pair has the modality."""
        gained = max(0.0, self.held_before - self.held_after)
        overfitted = (self.held_after - self.seen_after) - (self.held_before - self.seen_before)
        return gained / max(overfitted, LEAST_OVERFITTING * self.held_before) ** 2 if gained else 0.0


def estimate_blend(
    towers: TwoTower, examples: Examples, recipe: Recipe, wanted: list[Modality]
) -> dict[Modality, float]:
    """The weight of each modality and of the multimodal loss; they add up to 1.

    Args:
        towers: what every trial starts from; they stay as they are.
        examples: what trains; a tenth of the first stage's pairs, drawn by the recipe's seed, is held out here and
            nowhere else.
        recipe: its first stage is the trials' loss and optimiser, `blending.epochs` their length.
        wanted: the modalities beside the multimodal loss.

    Raises:
        MercatoError: no trial learned anything that holds on the held-out pairs.
    """
    rows = np.random.default_rng(recipe.seed).permutation(examples.rows(recipe.pair_stages[0]))
    held, train = np.split(rows, [max(2, int(HELD_OUT * len(rows)))])
    modalities = track([MULTIMODAL, *wanted], "gradient blending: a trial of each loss")
    return blend_weights({m: _try(towers, examples, recipe, m, held, train) for m in modalities})


def blend_weights(trials: Mapping[Modality, Trial]) -> dict[Modality, float]:
    """The weight of each loss by its trial; they add up to 1.

    Raises:
        MercatoError: no trial learned anything that holds on the held-out pairs.
    """
    scale = sum(trial.weight for trial in trials.values())
    if not 0 < scale < float("inf"):
        raise MercatoError(
            "blending.weights: no trial lowered the loss of held-out pairs; give weights, or more blending.epochs"
        )
    return {modality: trial.weight / scale for modality, trial in trials.items()}


def _try(
    towers: TwoTower,
    examples: Examples,
    recipe: Recipe,
    modality: Modality,
    held: NDArray[np.int64],
    train: NDArray[np.int64],
) -> Trial:
    """Train fresh towers on one loss alone."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    own = copy.deepcopy(towers).to(device)
    seen = train[: len(held)]  # the training loss is measured on as many pairs

    def task(rows: NDArray[np.int64]) -> PairTask:
        stage = recipe.pair_stages[0]
        whole = pair_objectives(stage, head_weight=0.0 if own.head is None else recipe.head.weight)
        return PairTask(
            batches=PairBatches(examples, rows, stage, recipe.seed),
            validation=None,
            objectives=whole if modality == MULTIMODAL else [modality_losses(stage, {modality: 1.0})],
            micro_batch=stage.micro_batch,
        )

    before = [_mean_loss(own, task(part), device) for part in (held, seen)]
    _fit(own, task(train), recipe, device)
    after = [_mean_loss(own, task(part), device) for part in (held, seen)]
    return Trial(*before, *after)


def _fit(towers: TwoTower, task: PairTask, recipe: Recipe, device: torch.device) -> None:
    assert recipe.blending is not None
    stage, batches = recipe.pair_stages[0], task.batches
    torch.manual_seed(recipe.seed)
    optimizer = adam(towers, stage)
    towers.train()
    for batches.epoch in range(recipe.blending.epochs):
        for batch in batches:
            optimizer.zero_grad()
            with torch.autocast(device.type, torch.bfloat16, enabled=half_precision(recipe)):
                loss = total(task.losses(towers, batch.to(device)))
            loss.backward()  # type: ignore[no-untyped-call]
            clip(towers.parameters(), stage.clip)
            optimizer.step()


@torch.no_grad()
def _mean_loss(towers: TwoTower, task: PairTask, device: torch.device) -> float:
    """Over the same batches every time, none smaller than the others: it depends on a batch's size."""
    towers.eval()
    return float(np.mean([float(total(task.losses(towers, batch.to(device)))) for batch in task.batches]))
