"""Deep sets over image vectors: a shared MLP, a sum, a linear layer (Zaheer et al. 2017; Que2Search §3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mercato.models.channels import ChannelEncoder


class ImageSet(ChannelEncoder):
    """Image vectors (B, I, V) with a mask (B, I) → (B, D): ρ(Σᵢ φ(xᵢ)), blind to the images' order.

    The sum is divided by the square root of the count, so that five images do not weigh five times as much as one.
    """

    def __init__(self, image_dimension: int, dimension: int, dropout: float) -> None:
        super().__init__()
        self.shared = nn.Sequential(
            nn.LayerNorm(image_dimension), nn.Linear(image_dimension, dimension), nn.GELU(), nn.Dropout(dropout)
        )
        self.after = nn.Linear(dimension, dimension)

    def forward(self, images_BIV: Tensor, mask_BI: Tensor) -> Tensor:
        """(B, I, V) float32, (B, I) bool → (B, D)."""
        weight_BI1 = mask_BI.unsqueeze(-1).to(images_BIV.dtype)
        summed_BD = (self.shared(images_BIV) * weight_BI1).sum(1)
        result: Tensor = self.after(summed_BD / weight_BI1.sum(1).clamp(min=1).sqrt())
        return result

    def each(self, images_BIV: Tensor) -> Tensor:
        """Every image by itself, φ and ρ without the sum: (B, I, V) float32 → (B, I, D)."""
        result: Tensor = self.after(self.shared(images_BIV))
        return result

    def present(self, images_BIV: Tensor, mask_BI: Tensor) -> Tensor:
        """Whether a row has any image: (B,) bool."""
        return mask_BI.any(1)

    @torch.no_grad()
    def zero_init(self) -> None:
        """Begin with zero vectors."""
        for parameter in self.after.parameters():
            parameter.zero_()
