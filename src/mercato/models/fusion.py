"""Late fusion of a tower's channels, three ways.

Shapes: B batch, C channels, D the shared dimension. All read one vector a channel; a missing channel (an empty
description, no image) counts as a zero vector, because missing fields are normal.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from mercato.models.channels import Channels


class AttentionFusion(nn.Module):
    """Simple attention fusion (Que2Search Eq. 1): w = softmax(proj_C(φ₁ ‖ … ‖ φ_C)), f = Σ wᵢ φᵢ.

    A missing channel gets weight 0, so the others share its weight: Eq. 1 has no such case.
    """

    def __init__(self, channels: int, dimension: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels * dimension, channels)

    def forward(self, channels: Channels) -> tuple[Tensor, Tensor]:
        """The fused (B, D) and the weights (B, C), zeros for a row with nothing present."""
        channels_BCD, present_BC = channels.vectors_BSE * channels.present_BS.unsqueeze(-1), channels.present_BS
        logits_BC = self.projection(channels_BCD.flatten(1))
        # A large negative number, not -inf: a row with nothing present must give zeros, not NaN.
        weights_BC = torch.softmax(logits_BC.masked_fill(~present_BC, -1e9), dim=-1) * present_BC
        return (weights_BC.unsqueeze(-1) * channels_BCD).sum(1), weights_BC

    @torch.no_grad()
    def uniform_init(self) -> None:
        """Begin with equal weights, whatever the channels hold."""
        for parameter in self.parameters():
            parameter.zero_()


class ConcatFusion(nn.Module):
    """Concatenation fusion (Que2Search §3.1): an MLP over φ₁ ‖ … ‖ φ_C; `wide` adds the plain sum Σ φᵢ to it.

    With `wide` over trigram bags this is the wide & deep baseline of Que2Search's tables: a linear model over hashed
    trigrams, and an MLP over the same embeddings.
    """

    def __init__(self, channels: int, dimension: int, wide: bool = False) -> None:
        super().__init__()
        self.wide = wide
        self.deep = nn.Sequential(
            nn.Linear(channels * dimension, dimension), nn.GELU(), nn.Linear(dimension, dimension)
        )

    def forward(self, channels: Channels) -> tuple[Tensor, None]:
        """The fused (B, D); there are no weights."""
        channels_BCD = channels.vectors_BSE * channels.present_BS.unsqueeze(-1)
        fused_BD: Tensor = self.deep(channels_BCD.flatten(1))
        return (fused_BD + channels_BCD.sum(1) if self.wide else fused_BD), None

    @torch.no_grad()
    def uniform_init(self) -> None:
        """Begin as the plain sum; an MLP alone has no such start and keeps its own."""
        if self.wide:
            for parameter in self.deep[-1].parameters():
                parameter.zero_()


LateFusion = AttentionFusion | ConcatFusion


def late_fusion(kind: Literal["attention", "concat", "wide_and_deep"], channels: int, dimension: int) -> LateFusion:
    """A fusion of one vector a channel, by its name in the recipe."""
    if kind == "attention":
        return AttentionFusion(channels, dimension)
    return ConcatFusion(channels, dimension, wide=kind == "wide_and_deep")
