"""Pairs as batches of tower inputs: every distinct query and product of a batch is encoded once.

Shapes: B pairs of a batch, Q and P its distinct queries and products.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.config import Stage
from mercato.text.features import Features, FeatureSpec


@dataclass(frozen=True)
class Batch:
    """What one step of training reads."""

    query: dict[str, Tensor]  # of Q distinct queries
    product: dict[str, Tensor]  # of P distinct products (as seen: with or without withheld fields)
    query_B: Tensor  # which of the Q, int64
    product_B: Tensor  # which of the P, int64
    excluded_BB: Tensor  # bool: column j is no negative for row i
    grade_B: Tensor  # float32, higher is better
    classes_PK: Tensor  # int64: which of the head's queries find each product, -1 = none more; K = 0 without a head

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        moved: dict[str, Any] = {
            name: {k: v.to(device) for k, v in value.items()} if isinstance(value, dict) else value.to(device)
            for name, value in vars(self).items()
        }
        return replace(self, **moved)


@dataclass(frozen=True)
class Examples:
    """Query–product pairs as rows of two feature tables."""

    queries: Features
    products: Features
    spec: FeatureSpec
    query_N: NDArray[np.int64]
    product_N: NDArray[np.int64]
    withhold_N: NDArray[np.int64]  # which of `withheld` a pair hides from the product tower
    withheld: list[tuple[str, ...]]
    grade_N: NDArray[np.float32]
    engaged_N: NDArray[np.bool_]  # a true pair; the others only serve graded losses
    slips_QS: NDArray[np.int64] | None = None  # rows of `queries` that misspell each query
    misspelled: float = 0.0  # share of a batch's pairs that read a misspelling
    classes_PK: NDArray[np.int64] | None = None  # of the head, for every row of `products`; -1 = none more

    @cached_property
    def engaged(self) -> NDArray[np.int64]:
        """The rows of true pairs."""
        return np.flatnonzero(self.engaged_N)

    def rows(self, stage: Stage) -> NDArray[np.int64]:
        """The pairs that a stage learns from."""
        return np.arange(len(self)) if stage.graded else self.engaged

    @cached_property
    def _known(self) -> NDArray[np.int64]:
        return np.unique(self._key(self.query_N[self.engaged_N], self.product_N[self.engaged_N]))

    def _key(self, query: NDArray[np.int64], product: NDArray[np.int64]) -> NDArray[np.int64]:
        return query * len(next(iter(self.products.values()))) + product

    def __len__(self) -> int:
        return len(self.query_N)

    def batch(self, rows: NDArray[np.int64], generator: np.random.Generator | None = None) -> Batch:
        """The batch of these pairs; `generator` decides which queries are misspelled, none where it is None."""
        read = self.query_N[rows]
        if generator is not None and self.slips_QS is not None:
            slipped = generator.random(len(rows)) < self.misspelled
            which = generator.integers(self.slips_QS.shape[1], size=len(rows))
            read = np.where(slipped, self.slips_QS[read, which], read)
        queries, query_B = np.unique(read, return_inverse=True)
        seen = self.product_N[rows] * len(self.withheld) + self.withhold_N[rows]
        instances, product_B = np.unique(seen, return_inverse=True)
        products = take(self.products, instances // len(self.withheld), self.spec)
        for kind, fields in enumerate(self.withheld):
            if fields:
                hide(products, fields, instances % len(self.withheld) == kind, self.spec)
        places = instances // len(self.withheld)
        classes = np.zeros((len(places), 0), np.int64) if self.classes_PK is None else self.classes_PK[places]
        return Batch(
            tensors(take(self.queries, queries, self.spec)),
            tensors(products),
            torch.from_numpy(query_B),
            torch.from_numpy(product_B),
            torch.from_numpy(self._excluded(rows)),
            torch.from_numpy(self.grade_N[rows]),
            torch.from_numpy(classes),
        )

    def _excluded(self, rows: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Every column that holds a known positive of its row's query, or the row's own product again."""
        keys_BB = self._key(self.query_N[rows][:, None], self.product_N[rows][None, :])
        place_BB = np.searchsorted(self._known, keys_BB).clip(max=len(self._known) - 1)
        excluded_BB: NDArray[np.bool_] = self._known[place_BB] == keys_BB
        np.fill_diagonal(excluded_BB, False)
        return excluded_BB


class Batches(torch.utils.data.IterableDataset[Batch]):
    """One shuffled pass over some rows of the examples an epoch, in batches of one size (give or take one).

    The order depends on the seed and the epoch alone, so that a resumed run sees what an unbroken one would.
    """

    def __init__(self, examples: Examples, rows: NDArray[np.int64], batch_size: int, seed: int) -> None:
        """`batch_size` is the most that a batch holds."""
        super().__init__()
        self.examples, self.rows, self.seed, self.epoch = examples, rows, seed, 0
        self.batch_size = max(2, min(batch_size, len(rows)))

    def __len__(self) -> int:
        return max(1, -(-len(self.rows) // self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        generator = np.random.default_rng((self.seed, self.epoch))
        for rows in np.array_split(generator.permutation(self.rows), len(self)):
            yield self.examples.batch(rows, generator)


def take(features: Features, rows: NDArray[np.int64], spec: FeatureSpec) -> Features:
    """These rows of a feature table, ids cut to the longest of them."""
    taken = Features()
    for name, array in features.items():
        part = array[rows]
        if part.ndim == 2 and part.dtype.kind == "i":
            fill = spec.pad_id if name.endswith("tokens") else 0
            part = part[:, : max(1, int((part != fill).any(0).sum()))]
        taken[name] = part
    return taken


def hide(products: Features, fields: tuple[str, ...], where: NDArray[np.bool_], spec: FeatureSpec) -> None:
    """Blank fields (`title`, `description`, `images`) of some rows, in place, as if the seller had left them out."""
    for field in fields:
        blanks = {f"{field}_tokens": spec.pad_id, f"{field}_trigrams": 0}
        for name, blank in ({"image_mask": 0} if field == "images" else blanks).items():
            if name in products:
                products[name][where] = blank


def tensors(features: Features) -> dict[str, Tensor]:
    """Features as torch tensors (int64, float32, bool)."""
    return {
        name: torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "i" else array)
        if array.dtype != np.float16
        else torch.from_numpy(array).float()
        for name, array in features.items()
    }


def index_of(frame: pl.DataFrame, table: pl.DataFrame, on: list[str]) -> NDArray[np.int64]:
    """For each row of `frame` the first row of `table` with the same `on` (nulls equal nulls), -1 for none."""
    rows = table.select(on).with_row_index("row").unique(on, keep="first")
    found = frame.select(on).join(rows, on=on, how="left", nulls_equal=True, maintain_order="left")
    return found["row"].cast(pl.Int64).fill_null(-1).to_numpy()
