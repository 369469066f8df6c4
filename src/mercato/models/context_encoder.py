"""Que2Engage's context encoder (He et al. 2023, §2.1.2): numbers and one-hot categories → BatchNorm → MLP → a token."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato.models.channels import ChannelEncoder

EPSILON = 1e-2  # a class of one product in a thousand counts enough without being divided by its own deviation
VARIED = 1e-4  # variance under which an input (of 0 and 1: one row in ten thousand) counts as constant


class ContextEncoder(ChannelEncoder):
    """Encoder of numbers (B, 2F) and category ids (B, K) → (B, D). See `mercato.features.context` for both.

    The normalisation's statistics are those of all rows that trained, not of the last few: the inputs do not change as
    the model learns, and a rare class may well be absent from the last batches.
    """

    owner_T: Tensor  # of each one-hot input: its category, and its class of that
    class_T: Tensor

    def __init__(self, width: int, sizes: Sequence[int], hidden: int, dimension: int, dropout: float) -> None:
        super().__init__()
        owner = [category for category, size in enumerate(sizes) for _ in range(size)]
        self.register_buffer("owner_T", torch.tensor(owner, dtype=torch.int64), persistent=False)
        classes = [i for size in sizes for i in range(size)]
        self.register_buffer("class_T", torch.tensor(classes, dtype=torch.int64), persistent=False)
        self.norm = nn.BatchNorm1d(width + len(owner), eps=EPSILON, momentum=None)
        self.mlp = nn.Sequential(
            nn.Linear(width + len(owner), hidden), nn.GELU(), nn.Dropout(dropout), nn.Linear(hidden, dimension)
        )

    def forward(self, numbers_BF: Tensor, categories_BK: Tensor) -> Tensor:
        """(B, 2F) float32, (B, K) int64 → (B, D)."""
        onehot_BL = (categories_BK[:, self.owner_T] == self.class_T).to(numbers_BF.dtype)
        result: Tensor = self.mlp(self._normalized(torch.cat([numbers_BF, onehot_BL], 1)))
        return result

    def present(self, numbers_BF: Tensor, categories_BK: Tensor) -> Tensor:
        """Whether anything at all is known of a row: (B,) bool."""
        known_BF = numbers_BF[:, numbers_BF.shape[1] // 2 :] == 0
        return torch.cat([known_BF, categories_BK != 0], 1).any(1)  # as one: to ONNX, any of no columns at all is true

    @torch.no_grad()
    def zero_init(self) -> None:
        """Begin with zero vectors."""
        for parameter in self.mlp[-1].parameters():
            parameter.zero_()

    def _normalized(self, inputs_BX: Tensor) -> Tensor:
        norm = self.norm
        assert norm.running_mean is not None and norm.running_var is not None
        if self.training and len(inputs_BX) > 1:
            normal_BX: Tensor = norm(inputs_BX)
            return normal_BX
        # A batch of one has no statistics of its own, so that it uses (and leaves) the running ones, as inference does.
        normal_BX = F.batch_norm(inputs_BX, norm.running_mean, norm.running_var, norm.weight, norm.bias, eps=norm.eps)
        # An input that never varied has weights that nothing trained: a price that is missing for the first time after
        # training must not move the vector. Training saw the bias there.
        return torch.where(norm.running_var > VARIED, normal_BX, norm.bias)
