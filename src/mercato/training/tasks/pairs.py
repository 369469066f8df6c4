"""The task of query–product pairs: several objectives that share one pass of the encoders over a batch.

Shapes: B pairs of a batch, U unengaged ones beside them; Q and M distinct queries and products, D the dimension.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from mercato.models.channels import Channels, join_rows
from mercato.models.tower import Inputs, Tower, TwoTower
from mercato.models.vision import Vision, rows_of
from mercato.training.data.batches import PairBatch, PairBatches
from mercato.training.task import Losses, Validation


@dataclass(frozen=True, kw_only=True)
class EncodedPairs:
    """A batch of pairs after the one pass of both towers' encoders."""

    towers: TwoTower
    batch: PairBatch
    query: Channels  # of Q distinct queries
    product: Channels  # of M distinct products
    query_QD: Tensor  # unit vectors of both whole towers, float32
    product_MD: Tensor
    half: bool  # whether encoders and fusions run in bfloat16 (autocast)

    @classmethod
    def of(cls, towers: TwoTower, batch: PairBatch, micro_batch: int | None) -> EncodedPairs:
        """Encode a batch, `micro_batch` rows at a time."""
        query = encode(towers.query, batch.query, micro_batch)
        product = encode(towers.product, batch.product, micro_batch, towers.vision)
        return cls(
            towers=towers,
            batch=batch,
            query=query,
            product=product,
            query_QD=towers.query.fuse(query)[0],
            product_MD=towers.product.fuse(product)[0],
            half=torch.is_autocast_enabled(batch.query_B.device.type),
        )

    def precision(self, half: bool = False) -> torch.autocast:
        """A context for what is computed of the vectors: whole numbers, or (`half`) as the encoders."""
        return torch.autocast(self.batch.query_B.device.type, torch.bfloat16, enabled=half and self.half)


class PairObjective(Protocol):
    """One or several losses of encoded pairs, computed without autocast."""

    def losses(self, pairs: EncodedPairs) -> Losses:
        """Its losses, by names that no other objective of the stage uses."""


@dataclass(frozen=True, kw_only=True)
class PairTask:
    """A task (`mercato.training.task`) on query–product pairs."""

    batches: PairBatches
    validation: Validation | None
    objectives: Sequence[PairObjective]
    micro_batch: int | None = None  # rows that are encoded at a time (gradient caching); None: all

    def losses(self, towers: TwoTower, batch: PairBatch) -> Losses:
        """The losses of every objective, in their order; in float32 whatever the encoders run in.

        In bfloat16 cosines are off by some thousandths: many tie, and the hardest negative is the first of a tie.
        """
        pairs = EncodedPairs.of(towers, batch, self.micro_batch)
        with pairs.precision():
            return {name: loss for objective in self.objectives for name, loss in objective.losses(pairs).items()}


def encode(tower: Tower, inputs: Inputs, rows: int | None, vision: Vision | None = None) -> Channels:
    """A tower's channels, `rows` at a time and encoded again on the way back (gradient caching, Gao et al. 2021).

    Loss and gradients are those of one piece, since rows do not see each other before the loss (but in the context
    encoder's BatchNorm, whose statistics then are those of `rows` rows); only the activations of `rows` rows are ever
    held, for one more forward pass. `vision` first makes vectors of the rows' pixels.
    """
    count = len(next(iter(inputs.values())))

    def encoded(part: Inputs) -> Channels:
        return tower.encode(part if vision is None else vision.look(part))

    if rows is None or count <= rows:
        return encoded(inputs)
    parts = [
        checkpoint(encoded, rows_of(inputs, start, start + rows), use_reentrant=False)
        for start in range(0, count, rows)
    ]
    return join_rows(parts)
