"""A compact CNN for catalogue images: small enough to train on two cores in a minute."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class CompactCNN(nn.Module):
    """Pixels (B, 3, S, S) float32 → (B, V)."""

    def __init__(self, dimension: int = 128, width: int = 24) -> None:
        super().__init__()
        self.dimension = dimension
        blocks: list[nn.Module] = []
        channels = 3
        for out in (width, 2 * width, 3 * width, 4 * width):
            blocks += [nn.Conv2d(channels, out, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(out), nn.ReLU()]
            channels = out
        self.trunk = nn.Sequential(*blocks)
        self.embedding = nn.Linear(2 * channels, dimension)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) float32 → (B, V): mean and maximum over the image, then one linear layer."""
        maps = self.trunk(pixels).flatten(2)
        result: Tensor = self.embedding(torch.cat([maps.mean(-1), maps.amax(-1)], dim=1))
        return result
