"""ID embeddings: a vector of its own for each known product, seller, category and brand, or for each head query."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mercato.models.channels import ChannelEncoder


class IdEmbeddings(ChannelEncoder):
    """Ids (B, K), 0 = unknown → the sum of their embeddings (B, D); one table a field.

    All begin at zero, so that training starts from what the other channels know, and row 0 stays there: what is unknown
    adds nothing. Their gradients are sparse, of the rows that were read alone (`mercato.training.optimizer`).
    """

    def __init__(self, buckets: Sequence[int], dimension: int) -> None:
        """`buckets` is of each field: its table has a row more, the unknown's."""
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(count + 1, dimension, padding_idx=0, sparse=True) for count in buckets)
        self.zero_init()

    def forward(self, ids_BK: Tensor) -> Tensor:
        """(B, K) int64 → (B, D)."""
        return torch.stack([_rows(table, ids_BK[:, k]) for k, table in enumerate(self.tables)]).sum(0)

    def present(self, ids_BK: Tensor) -> Tensor:
        """Whether any of a row's ids is known: (B,) bool."""
        return (ids_BK != 0).any(1)

    @torch.no_grad()
    def zero_init(self) -> None:
        """Begin with zero vectors."""
        for parameter in self.parameters():
            parameter.zero_()


def _rows(table: nn.Module, ids_B: Tensor) -> Tensor:
    """Rows of a table; its gradient has one entry for each different row, not for each time that it is read."""
    if torch.compiler.is_exporting() or not torch.is_grad_enabled():
        found: Tensor = table(ids_B)
        return found
    different, place_B = torch.unique(ids_B, return_inverse=True)
    return F.embedding(place_B, table(different))
