"""Embedding bags: hashed character trigrams, and single categories such as a country."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato.models.channels import ChannelEncoder


class TrigramBag(ChannelEncoder):
    """Embedding bag: trigram hash ids (B, T), 0 = padding → the sum of their embeddings (B, D) (Que2Search §3.1)."""

    def __init__(self, buckets: int, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(buckets + 1, dimension) * dimension**-0.5)
        with torch.no_grad():
            self.weight[0] = 0

    def forward(self, ids_BL: Tensor) -> Tensor:
        """(B, T) int64 → (B, D)."""
        if torch.compiler.is_exporting():  # ONNX has no bag: the same sum, written out
            return (F.embedding(ids_BL, self.weight) * (ids_BL != 0).unsqueeze(-1)).sum(1)
        real_BL = ids_BL != 0  # left out beforehand, not by `padding_idx`, whose backward sorts the padding too
        start_B = F.pad(real_BL.sum(1).cumsum(0)[:-1], (1, 0))
        return F.embedding_bag(ids_BL[real_BL], self.weight, start_B, mode="sum")

    def present(self, ids_BL: Tensor) -> Tensor:
        """Whether a row has any trigram: (B,) bool."""
        return (ids_BL != 0).any(1)

    @torch.no_grad()
    def zero_init(self) -> None:
        """Begin with zero vectors."""
        self.weight.zero_()


class Category(ChannelEncoder):
    """Embedding of one category id (B,), 0 = unknown → (B, D)."""

    def __init__(self, count: int, dimension: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(count + 1, dimension) * dimension**-0.5)

    def forward(self, ids_B: Tensor) -> Tensor:
        """(B,) int64 → (B, D)."""
        return F.embedding(ids_B, self.weight)

    def present(self, ids_B: Tensor) -> Tensor:
        """Whether a row's category is known: (B,) bool."""
        return ids_B != 0

    @torch.no_grad()
    def zero_init(self) -> None:
        """Begin with zero vectors."""
        self.weight.zero_()
