"""Weights for gradient blending, estimated (Wang, Tran & Feiszli 2020: what makes multi-modal training hard).

For each of the M + 1 losses a fresh pair of towers trains on that loss alone. What it gains on held-out pairs, G, and
what it overfits, O, give its weight:

    w_k ∝ G_k / O_k²,    G = L_val(before) − L_val(after),    O = [L_val − L_train](after) − [L_val − L_train](before)
"""

from __future__ import annotations

import copy

import numpy as np
import torch
from numpy.typing import NDArray

from mercato.config import Recipe
from mercato.errors import MercatoError
from mercato.models.que2search import TwoTower
from mercato.progress import track
from mercato.training.data.batches import Batches, Examples
from mercato.training.optimizer import adam, half_precision
from mercato.training.tasks.modalities import MULTIMODAL, Modality
from mercato.training.tasks.objective import Objective, total

HELD_OUT = 0.1  # of the pairs
LEAST_OVERFITTING = 0.05  # of the loss before training: a modality that hardly learns must not divide by nothing


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
    assert recipe.blending is not None
    stage = recipe.stages[0]
    rows = np.random.default_rng(recipe.seed).permutation(examples.rows(stage))
    held, train = np.split(rows, [max(2, int(HELD_OUT * len(rows)))])
    seen = train[: len(held)]  # the training loss is measured on as many pairs
    weights = {}
    for modality in track([MULTIMODAL, *wanted], "gradient blending: a trial of each loss"):
        trial = _Trial(towers, examples, recipe, modality)
        before = [trial.loss(part) for part in (held, seen)]
        trial.fit(train)
        after = [trial.loss(part) for part in (held, seen)]
        gained = max(0.0, before[0] - after[0])
        overfitted = (after[0] - after[1]) - (before[0] - before[1])
        # No pair has the modality: nothing to gain, nothing to divide by.
        weights[modality] = gained / max(overfitted, LEAST_OVERFITTING * before[0]) ** 2 if gained else 0.0
    scale = sum(weights.values())
    if not 0 < scale < float("inf"):
        raise MercatoError(
            "blending.weights: no trial lowered the loss of held-out pairs; give weights, or more blending.epochs"
        )
    return {modality: weight / scale for modality, weight in weights.items()}


class _Trial:
    """Fresh towers that learn one loss alone."""

    def __init__(self, towers: TwoTower, examples: Examples, recipe: Recipe, modality: Modality) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.towers, self.examples, self.recipe = copy.deepcopy(towers).to(self.device), examples, recipe
        self.stage = recipe.stages[0]
        self.objective = Objective(self.stage, {MULTIMODAL: float(modality == MULTIMODAL), modality: 1.0})

    def fit(self, rows: NDArray[np.int64]) -> None:
        assert self.recipe.blending is not None
        torch.manual_seed(self.recipe.seed)
        optimizer = adam(self.towers, self.stage)
        batches = Batches(self.examples, rows, self.stage, self.recipe.seed)
        self.towers.train()
        for batches.epoch in range(self.recipe.blending.epochs):
            for batch in batches:
                optimizer.zero_grad()
                with torch.autocast(self.device.type, torch.bfloat16, enabled=half_precision(self.recipe)):
                    loss = total(self.objective.losses(self.towers, batch.to(self.device)))
                loss.backward()  # type: ignore[no-untyped-call]
                torch.nn.utils.clip_grad_norm_(self.towers.parameters(), self.stage.clip)
                optimizer.step()

    @torch.no_grad()
    def loss(self, rows: NDArray[np.int64]) -> float:
        """The mean over the same batches every time, none smaller than the others: it depends on a batch's size."""
        self.towers.eval()
        batches = Batches(self.examples, rows, self.stage, self.recipe.seed)
        losses = [float(total(self.objective.losses(self.towers, batch.to(self.device)))) for batch in batches]
        return float(np.mean(losses))
