"""A tower's channels and unit vectors for a table of rows: what attention and importance are read from.

Letters: docs/notation.md; N are the rows of the table, queries or products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Self

import numpy as np
import polars as pl
import pyarrow as pa
import torch
from torch import Tensor

from mercato.evaluation.metrics.arrays import FloatArray
from mercato.features.featurizer import Features
from mercato.models.channels import Channels, join_rows
from mercato.models.tower import Tower
from mercato.progress import track
from mercato.runs.torch_encoder import TorchEncoder

BATCH = 256


@dataclass(frozen=True)
class EncodedTower:
    """One tower with what it makes of its rows, each row encoded once."""

    tower: Tower
    channels: Channels  # of N rows
    unit_ND: Tensor
    weights_NC: FloatArray | None  # None where the fusion has no weights

    @classmethod
    @torch.inference_mode()
    def of(cls, tower: Tower, batches: Sequence[Features]) -> Self:
        """Encode batches of features; the tower must be in evaluation mode."""
        encoded, units, weights = [], [], []
        for batch in batches:
            channels = tower.encode({name: torch.from_numpy(array) for name, array in batch.items()})
            unit_BD, weights_BC = tower.fuse(channels)
            encoded.append(channels)
            units.append(unit_BD)
            if weights_BC is not None:
                weights.append(weights_BC.double().numpy())
        return cls(tower, join_rows(encoded), torch.cat(units), np.concatenate(weights) if weights else None)

    @property
    def names(self) -> tuple[str, ...]:
        """The channels, in order."""
        return self.tower.channels


def encode_queries(model: TorchEncoder, queries: pl.DataFrame) -> EncodedTower:
    """Encode the queries (columns `query`, `country`) channel by channel."""
    texts, countries = queries["query"].to_list(), queries["country"].to_list()
    starts = range(0, len(texts), BATCH)
    batches = [
        model.featurizer.queries(texts[start : start + BATCH], countries[start : start + BATCH])
        for start in track(starts, "channels of queries")
    ]
    return EncodedTower.of(model.towers.query, batches)


def encode_products(model: TorchEncoder, products: pa.Table, *, as_of: datetime | None = None) -> EncodedTower:
    """Encode rows of the products schema channel by channel; listings have their age at `as_of` (None: the clock's)."""
    batches = [
        model.featurizer.products(rows, model.image_vectors(rows), as_of)
        for start in track(range(0, products.num_rows, BATCH), "channels of products")
        for rows in [products.slice(start, BATCH).to_pylist()]
    ]
    return EncodedTower.of(model.towers.product, batches)
