"""Late fusion of a tower's channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class AttentionFusion(nn.Module):
    """Simple attention fusion (Que2Search Eq. 1): w = softmax(proj_N(φ₁ ‖ … ‖ φ_N)), f = Σ wᵢ φᵢ.

    A missing channel (an empty description, no photo) gets weight 0 and a zero vector in the concatenation, so the
    others share its weight: missing fields are normal.
    """

    def __init__(self, channels: int, dimension: int) -> None:
        super().__init__()
        self.projection = nn.Linear(channels * dimension, channels)

    def forward(self, channels_BND: Tensor, present_BN: Tensor) -> tuple[Tensor, Tensor]:
        """(B, N, D), (B, N) bool → the fused (B, D) and the weights (B, N), zeros for a row with nothing present."""
        channels_BND = channels_BND * present_BN.unsqueeze(-1)
        logits_BN = self.projection(channels_BND.flatten(1))
        # A large negative number, not -inf: a row with nothing present must give zeros, not NaN.
        weights_BN = torch.softmax(logits_BN.masked_fill(~present_BN, -1e9), dim=-1) * present_BN
        return (weights_BN.unsqueeze(-1) * channels_BND).sum(1), weights_BN
