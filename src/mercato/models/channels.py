"""Channel encodings: what a tower's encoders make of a batch before fusion, vectors at positions of one channel each.

Shapes: B batch, C channels, S positions (one a channel, unless a fusion reads tokens), E the fusion's width (the shared
dimension D, or a fusion transformer's hidden size).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class ChannelEncoder(nn.Module):
    """The encoder of one channel: `forward` maps the channel's features, in the table's order, to a vector (B, E).

    One whose channel fills several positions of a sequence gives (B, S, E), and `present` (B, S).
    """

    present: Callable[..., Tensor]
    """From the same features, whether a row has the channel at all: (B,) bool."""
    zero_init: Callable[[], None]
    """Begin with zero vectors: beside a pretrained encoder, training starts from what that already knows."""


class Channels(NamedTuple):
    """Encodings of all channels: vectors, which of them a row has, and whose each position is."""

    vectors_BSE: Tensor
    present_BS: Tensor  # bool
    channel_S: Tensor  # int64, ascending

    @classmethod
    def of(cls, encoded: Sequence[tuple[Tensor, Tensor]]) -> Self:
        """From each channel's vector and presence, (B, E) and (B,), or those of its positions, (B, S, E) and (B, S)."""
        vectors = [own if own.ndim == 3 else own.unsqueeze(1) for own, _ in encoded]
        present = [own if own.ndim == 2 else own.unsqueeze(1) for _, own in encoded]
        channel = [torch.full((own.shape[1],), n, device=own.device) for n, own in enumerate(present)]
        return cls(torch.cat(vectors, 1), torch.cat(present, 1), torch.cat(channel))

    @property
    def starts(self) -> Tensor:
        """Whether a position is the first of its channel: (S,) bool."""
        return self.channel_S != F.pad(self.channel_S[:-1], (1, 0), value=-1)

    def has(self, wanted: Iterable[int]) -> Tensor:
        """Whether a row has any of these channels: (B,) bool."""
        return (self.present_BS & self._of(wanted)).any(1)

    def with_zeros(self, count: int) -> Channels:
        """And so many more channels, each a position of zeros that every row has."""
        if not count:
            return self
        after = torch.arange(1, count + 1, device=self.channel_S.device) + self.channel_S[-1]
        return Channels(
            F.pad(self.vectors_BSE, (0, 0, 0, count)),
            F.pad(self.present_BS, (0, count), value=True),
            torch.cat([self.channel_S, after]),
        )

    def without(self, unwanted: Iterable[int], rows_B: Tensor | None = None) -> Channels:
        """As if (some) rows lacked these channels."""
        gone_BS = self._of(unwanted) if rows_B is None else self._of(unwanted) & rows_B.unsqueeze(1)
        return self._replace(present_BS=self.present_BS & ~gone_BS)

    def _of(self, wanted: Iterable[int]) -> Tensor:
        return torch.isin(self.channel_S, torch.tensor([*wanted], dtype=torch.int64, device=self.channel_S.device))


def join_rows(parts: Sequence[Channels]) -> Channels:
    """Batches one under the other; a channel that fills more positions in one of them is padded in the others."""
    counts = torch.stack([torch.bincount(part.channel_S) for part in parts])
    most_C = counts.amax(0)
    vectors, present = [], []
    for part, counts_C in zip(parts, counts, strict=True):
        lacking, own = (most_C - counts_C).tolist(), counts_C.tolist()
        split = zip(torch.split(part.vectors_BSE, own, 1), torch.split(part.present_BS, own, 1), lacking, strict=True)
        padded = [(F.pad(v, (0, 0, 0, n)), F.pad(p, (0, n))) for v, p, n in split]
        vectors.append(torch.cat([v for v, _ in padded], 1))
        present.append(torch.cat([p for _, p in padded], 1))
    return Channels(torch.cat(vectors), torch.cat(present), torch.arange(len(most_C)).repeat_interleave(most_C))
