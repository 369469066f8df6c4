"""The recall model's last layer: a content vector through a fully connected layer, joined with ID embeddings.

A concatenation of both and a linear layer over it, [W, V]·(content ‖ id) = W·content + V·id: V is folded into the
embeddings, which are free in any case. W begins as the identity and the embeddings at zero, so that the untrained layer
changes nothing, and for a row of unknown ids the vector is that of W·content alone, exactly.

Two towers made so are scored by the inner product of *unit* vectors, with a learned temperature in training. The index
holds unit vectors, whose nearest neighbours by cosine, inner product and Euclidean distance are the same, and a
product's popularity may not lengthen its vector. The alternative, free lengths, is maximum inner product search: one
more component √(M² − |v|²) for each product, M the longest, reduces it to nearest neighbours (Bachrach et al. 2014).
That component depends on the whole catalogue: one longer vector, and all others change, which an index that products
join every second cannot follow.

Shapes as in `mercato.models.channels`.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from mercato.config import Recipe
from mercato.models.channels import Channels

IDS = "ids"  # the channel that is kept out of the fusion


class Join(nn.Module):
    """Unit content vectors (B, D) and the sum of a row's ID embeddings (B, D) → unit vectors (B, D)."""

    def __init__(self, dimension: int, positions: int) -> None:
        """`positions` are those that the ids fill at the end of `Channels`; 0: there are no ids."""
        super().__init__()
        self.linear = nn.Linear(dimension, dimension)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.positions = positions

    def forward(self, content_BD: Tensor, ids_BD: Tensor | None) -> Tensor:
        """(B, D), and (B, D) or None without ids → (B, D) float32."""
        joined_BD = self.linear(content_BD)
        return F.normalize((joined_BD if ids_BD is None else joined_BD + ids_BD).float(), dim=-1)

    def split(self, channels: Channels) -> tuple[Channels, Tensor | None]:
        """The content's channels, and the ID embeddings (B, D) of each row, zeros where it lacks them."""
        if not self.positions:
            return channels, None
        split = channels.vectors_BSE.shape[1] - self.positions
        ids_BPE = channels.vectors_BSE[:, split:] * channels.present_BS[:, split:].unsqueeze(-1)
        content = Channels(channels.vectors_BSE[:, :split], channels.present_BS[:, :split], channels.channel_S[:split])
        return content, ids_BPE.flatten(1)[:, : self.linear.in_features]


def fused_channels(recipe: Recipe, fusion: str, channels: tuple[str, ...]) -> tuple[str, ...]:
    """The channels that a tower's fusion reads, in order: all, or all but the ids, which are joined afterwards.

    That is so where the fusion is a transformer, where there is one other channel and so nothing to fuse, and in a
    recall model, whose content vectors are computed once.
    """
    apart = fusion == "transformer" or len(channels) == 2 or recipe.recalls
    return tuple(channel for channel in channels if channel != IDS) if apart else channels


def make_join(recipe: Recipe, fusion: str, channels: tuple[str, ...], width: int) -> Join | None:
    """The join of a tower whose fusion reads vectors of `width` numbers; None where there is nothing to join."""
    if fused_channels(recipe, fusion, channels) == channels and not recipe.recalls:
        return None
    return Join(recipe.dimension, _positions(recipe.dimension, width) if IDS in channels else 0)


def as_positions(vectors_BD: Tensor, present_B: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """A vector of any length at positions of `width` numbers, filled up with zeros: (B, P, E) and (B, P) bool."""
    count = _positions(vectors_BD.shape[1], width)
    filled_BX = F.pad(vectors_BD, (0, count * width - vectors_BD.shape[1]))
    return filled_BX.view(-1, count, width), present_B.unsqueeze(1).expand(-1, count)


def _positions(dimension: int, width: int) -> int:
    """How many positions of `width` numbers hold a vector of `dimension`."""
    return -(-dimension // width)
