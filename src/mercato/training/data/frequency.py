"""How often a batch holds an item, estimated as the stream of batches passes (Yi et al. 2019, Algorithm 2)."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class StreamingFrequency(nn.Module):
    """The gap between the batches that hold an item, averaged over time, and so its chance to be in one.

    Two arrays over hashed items: A, the step at which an item was last in a batch, and B, the moving average of the
    steps in between. At step t, for each item y of the batch (Yi et al., "Sampling-Bias-Corrected Neural Modeling for
    Large Corpus Item Recommendations", RecSys 2019, Algorithm 2):

        B[h(y)] ← (1 − α)·B[h(y)] + α·(t − A[h(y)]),   A[h(y)] ← t,   p̂(y) = 1 / B[h(y)]

    No counts of the whole data are needed, and it follows a stream that changes. Items are numbers, and h is the number
    modulo the length of the arrays. The state is in buffers: a resumed stage goes on with it.
    """

    last_H: Tensor
    gap_H: Tensor
    steps: Tensor

    def __init__(self, buckets: int, rate: float, gap: float) -> None:
        """`rate` is α; `gap` is where B begins, the gap of an item of which nothing is known."""
        super().__init__()
        self.rate = rate
        self.register_buffer("last_H", torch.zeros(buckets, dtype=torch.int64))  # A; steps count from 1
        self.register_buffer("gap_H", torch.full((buckets,), float(gap)))  # B
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @torch.no_grad()
    def update(self, items_K: Tensor) -> None:
        """A batch has passed that holds these items, int64; once is enough."""
        self.steps += 1
        buckets_K = torch.unique(items_K % len(self.gap_H))
        since_K = (self.steps - self.last_H[buckets_K]).to(self.gap_H.dtype)
        self.gap_H[buckets_K] = (1 - self.rate) * self.gap_H[buckets_K] + self.rate * since_K
        self.last_H[buckets_K] = self.steps

    def probability(self, items_K: Tensor) -> Tensor:
        """p̂ of each item, float32, at most 1; 0 of what no batch has held."""
        buckets_K = items_K % len(self.gap_H)
        seen_K = self.last_H[buckets_K] > 0
        return torch.where(seen_K, 1 / self.gap_H[buckets_K].clamp(min=1), 0.0)
