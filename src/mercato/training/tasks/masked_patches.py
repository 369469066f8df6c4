"""MPM: the patches that were masked in an image, told from its others and the title.

Shapes: N masked patches of V numbers, K codes; others as in `mercato.training.data.pretraining`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from mercato.config.pretraining import MaskedPatches
from mercato.training.tasks.step import Outcome, Step

FAR = 10.0  # deviations, further than which no number is told: one that hardly any patch has must not own the loss
TINY = 1e-3  # of a patch's deviation: one of a single colour has none


@dataclass(frozen=True)
class PatchTargets:
    """What is known of the patches that train."""

    mean_V: Tensor
    deviation_V: Tensor
    code_KV: Tensor  # the codebook, of standardised patches; K = 0 without one, fewer than the recipe's of few patches
    log_chance_K: Tensor  # of each code
    mean_pixels_V: Tensor  # the mean of patches that are normalised within themselves

    def standardised(self, patch_NV: Tensor) -> Tensor:
        """Each number less its mean over all patches, by its deviation."""
        return ((patch_NV - self.mean_V.to(patch_NV)) / self.deviation_V.to(patch_NV)).clamp(-FAR, FAR)


@dataclass(frozen=True)
class MaskedPatchesTask:
    """Mean squared error of what a patch shows, or cross-entropy of its code."""

    stage: MaskedPatches
    targets: PatchTargets

    def outcome(self, step: Step) -> Outcome | None:
        """See `PretrainingObjective`; accuracy is the share of codes told, or of the variance."""
        batch, where = step.batch, self.stage.where
        if not batch.hidden_MS.any():
            return None
        patch_MSV = batch.product["patches"].flatten(1, 2)
        states, patches = [], []
        if where in ("tower", "both"):
            states.append(step.masked_items.state_BSH[step.hidden])
            patches.append(patch_MSV[batch.hidden_MS])
        if where in ("cross", "both") and len(batch.query_B):
            hidden_BS = step.hidden[batch.product_B]
            words = step.masked_crossed.shape[1] - hidden_BS.shape[1]
            states.append(step.masked_crossed[:, words:][hidden_BS])
            patches.append(patch_MSV[batch.product_B][batch.hidden_MS[batch.product_B]])
        if not sum(map(len, patches)):
            return None
        assert step.towers.patches is not None
        return self.told(step.towers.patches(torch.cat(states)).float(), torch.cat(patches).float())

    def told(self, output_NX: Tensor, patch_NV: Tensor) -> Outcome:
        """What comes of outputs for masked patches: of numbers X = V, of codes X = K."""
        if self.stage.target == "codebook":
            code_N = torch.cdist(self.targets.standardised(patch_NV), self.targets.code_KV.to(patch_NV)).argmin(1)
            right = (output_NX.argmax(1) == code_N).float().mean()
            return Outcome(
                F.cross_entropy(output_NX, code_N), right, -self.targets.log_chance_K.to(output_NX)[code_N].mean()
            )
        if self.stage.target == "pixels":
            target_NV, mean_V = within(patch_NV), self.targets.mean_pixels_V.to(patch_NV)
        else:
            target_NV, mean_V = self.targets.standardised(patch_NV), torch.zeros_like(patch_NV[0])
        loss, trivial = F.mse_loss(output_NX, target_NV), F.mse_loss(mean_V.expand_as(target_NV), target_NV)
        return Outcome(loss, (1 - loss / trivial.clamp(min=TINY)).detach(), trivial)


def within(patch_NV: Tensor) -> Tensor:
    """Patches normalised within themselves, as MAE tells them: (N, V)."""
    patch_NV = patch_NV - patch_NV.mean(1, keepdim=True)
    return patch_NV / patch_NV.std(1, correction=0, keepdim=True).clamp(min=TINY)
