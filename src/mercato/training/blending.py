"""Weights for gradient blending, estimated (Wang, Tran & Feiszli 2020: what makes multi-modal training hard).

For each of the M + 1 losses a fresh pair of towers trains on that loss alone. What it gains on held-out pairs, G, and
what it overfits, O, give its weight:

    w_k ∝ G_k / O_k²,    G = L_val(before) − L_val(after),    O = [L_val − L_train](after) − [L_val − L_train](before)
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray

from mercato.config import Stage
from mercato.models.que2search import TwoTower
from mercato.progress import track
from mercato.training.batches import Batches, Examples
from mercato.training.modalities import MULTIMODAL, Modality
from mercato.training.objective import Objective, total
from mercato.training.optimizer import adam

HELD_OUT = 0.1  # of the engaged pairs
LEAST_OVERFITTING = 0.05  # of the loss before training: a modality that hardly learns must not divide by nothing


def estimate_blend(
    build: Callable[[], TwoTower], examples: Examples, stage: Stage, wanted: list[Modality], epochs: int, seed: int
) -> dict[Modality, float]:
    """The weight of each modality and of the multimodal loss; they add up to 1.

    Args:
        build: gives towers with the same fresh weights every time.
        examples: what trains; a tenth of the engaged pairs, drawn by `seed`, is held out here and nowhere else.
        stage: the loss and optimiser of the trials.
        wanted: the modalities beside the multimodal loss.
        epochs: of each trial.
    """
    generator = np.random.default_rng(seed)
    rows = generator.permutation(examples.engaged)
    held, train = np.split(rows, [max(2, int(HELD_OUT * len(rows)))])
    seen = train[: len(held)]  # the training loss is measured on as many pairs
    weights = {}
    for modality in track([MULTIMODAL, *wanted], "gradient blending: a trial of each loss"):
        objective = Objective(stage, {MULTIMODAL: float(modality == MULTIMODAL), modality: 1.0})
        towers = build()
        before = [_loss(objective, towers, examples, part, seed) for part in (held, seen)]
        _fit(objective, towers, Batches(examples, train, stage.batch_size, seed), epochs)
        after = [_loss(objective, towers, examples, part, seed) for part in (held, seen)]
        gained = before[0] - after[0]
        overfitted = (after[0] - after[1]) - (before[0] - before[1])
        weights[modality] = max(0.0, gained) / max(overfitted, LEAST_OVERFITTING * before[0]) ** 2
    scale = sum(weights.values()) or 1.0
    return {modality: weight / scale for modality, weight in weights.items()}


def _fit(objective: Objective, towers: TwoTower, batches: Batches, epochs: int) -> None:
    device = next(towers.parameters()).device
    optimizer = adam(towers, objective.stage)
    towers.train()
    for epoch in range(epochs):
        batches.epoch = epoch
        for batch in batches:
            optimizer.zero_grad()
            total(objective.losses(towers, batch.to(device))).backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(towers.parameters(), objective.stage.clip)
            optimizer.step()


@torch.no_grad()
def _loss(objective: Objective, towers: TwoTower, examples: Examples, rows: NDArray[np.int64], seed: int) -> float:
    """The mean over the same batches every time, none smaller than the others: the loss depends on a batch's size."""
    device = next(towers.parameters()).device
    towers.eval()
    batches = Batches(examples, rows, objective.stage.batch_size, seed)
    return float(np.mean([float(total(objective.losses(towers, batch.to(device)))) for batch in batches]))
