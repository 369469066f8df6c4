"""Pairs as batches of tower inputs: every distinct query and product of a batch is encoded once.

Shapes: B pairs of a batch and S shown ones beside them, Q and P its distinct queries and products; C = B or B + S.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, Self

import numpy as np
import polars as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.config import Stage
from mercato.errors import MercatoError
from mercato.features.featurizer import Features, FeatureSpec
from mercato.models.vision import PIXELS
from mercato.training.data.images import Photos, ahead


@dataclass(frozen=True)
class Batch:
    """What one step of training reads."""

    query: dict[str, Tensor]  # of Q distinct queries
    product: dict[str, Tensor]  # of P distinct products (as seen: with or without withheld fields)
    query_B: Tensor  # which of the Q, int64
    product_B: Tensor  # which of the P, int64
    shown_query_S: Tensor  # the same of pairs that were shown and not engaged, where the stage reads them
    shown_product_S: Tensor
    excluded_BC: Tensor  # bool: column j, a product of the B pairs or (mixed negatives) the S, is no negative for row i
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
    engaged_N: NDArray[np.bool_]  # a true pair; the others were shown or graded low, and are never in-batch positives
    slips_QS: NDArray[np.int64] | None = None  # rows of `queries` that misspell each query
    misspelled: float = 0.0  # share of a batch's pairs that read a misspelling
    weight_N: NDArray[np.float64] | None = None  # sessions; None: all alike
    weight_power: float = 0.0  # pairs are drawn by their weight to this power; 0: every engaged pair once an epoch
    days_N: NDArray[np.int64] | None = None  # the listing's age when the pair was last seen, −1 unknown
    classes_PK: NDArray[np.int64] | None = None  # of the head, for every row of `products`; -1 = none more
    photos: Photos | None = None  # of every row of `products`, where an image encoder is fine-tuned

    @cached_property
    def engaged(self) -> NDArray[np.int64]:
        """The rows of true pairs."""
        return np.flatnonzero(self.engaged_N)

    def rows(self, stage: Stage) -> NDArray[np.int64]:
        """The pairs that a stage learns from."""
        return np.arange(len(self)) if stage.graded else self.engaged

    @cached_property
    def shown(self) -> NDArray[np.int64]:
        """The rows of all other pairs."""
        return np.flatnonzero(~self.engaged_N)

    @cached_property
    def _known(self) -> NDArray[np.int64]:
        return np.unique(self._key(self.query_N[self.engaged_N], self.product_N[self.engaged_N]))

    def _key(self, query: NDArray[np.int64], product: NDArray[np.int64]) -> NDArray[np.int64]:
        return query * len(next(iter(self.products.values()))) + product

    def __len__(self) -> int:
        return len(self.query_N)

    def batch(
        self,
        rows: NDArray[np.int64],
        generator: np.random.Generator | None = None,
        shown: NDArray[np.int64] | None = None,
        mixed: bool = False,
    ) -> Batch:
        """The batch of these pairs, and of `shown` ones beside them; `mixed`: their products are negatives of all.

        `generator` decides which queries are misspelled, none where it is None.
        """
        every = rows if shown is None else np.concatenate([rows, shown])
        read = self.query_N[every]
        if generator is not None and self.slips_QS is not None:
            slipped = generator.random(len(every)) < self.misspelled
            which = generator.integers(self.slips_QS.shape[1], size=len(every))
            read = np.where(slipped, self.slips_QS[read, which], read)
        queries, query_R = np.unique(read, return_inverse=True)
        # A product is encoded once for each way it is seen: what is withheld, and how old it was.
        seen_R3 = np.stack([self.product_N[every], self.withhold_N[every], np.zeros_like(every)], axis=1)
        if self.days_N is not None:
            seen_R3[:, 2] = self.days_N[every]
        instances, product_R = np.unique(seen_R3, axis=0, return_inverse=True)
        places, withholds, days = instances.T
        products = take(self.products, places, self.spec)
        for kind, fields in enumerate(self.withheld):
            if fields:
                hide(products, fields, withholds == kind, self.spec)
        if self.days_N is not None and self.spec.context is not None and (columns := self.spec.context.age_columns):
            seconds = np.where(days < 0, np.nan, days * 86_400.0)
            products["context_numbers"][:, columns] = self.spec.context.ages(seconds)
        if self.photos is not None:
            own = None if generator is None else generator.spawn(1)[0]  # which leaves the other draws as they were
            products[PIXELS] = self.photos.pixels(places, products["image_mask"].sum(1), own)
        query_B, product_B = torch.from_numpy(query_R), torch.from_numpy(product_R.ravel())
        classes = np.zeros((len(places), 0), np.int64) if self.classes_PK is None else self.classes_PK[places]
        return Batch(
            tensors(take(self.queries, queries, self.spec)),
            tensors(products),
            query_B[: len(rows)],
            product_B[: len(rows)],
            query_B[len(rows) :],
            product_B[len(rows) :],
            torch.from_numpy(self._excluded(rows, every if mixed else rows)),
            torch.from_numpy(self.grade_N[rows]),
            torch.from_numpy(classes),
        )

    def pool(self, rows: NDArray[np.int64]) -> Pool:
        """Some of the pairs, to draw from by their weight to `weight_power`."""
        if not self.weight_power or self.weight_N is None:
            return Pool(rows)
        return Pool(rows, np.cumsum(self.weight_N[rows] ** self.weight_power))

    def _excluded(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Every column that holds a known positive of its row's query, or the row's own product again."""
        keys_BC = self._key(self.query_N[rows][:, None], self.product_N[columns][None, :])
        place_BC = np.searchsorted(self._known, keys_BC).clip(max=len(self._known) - 1)
        excluded_BC: NDArray[np.bool_] = self._known[place_BC] == keys_BC
        np.fill_diagonal(excluded_BC, False)
        return excluded_BC


@dataclass(frozen=True)
class Pool:
    """Pairs to draw from, any of them again and again. Their weights are added up once: there may be many millions."""

    rows: NDArray[np.int64]
    upto: NDArray[np.float64] | None = None  # the weights of all rows up to each, itself included; None: all alike

    def draw(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """So many rows."""
        if self.upto is None:
            return self.rows[generator.integers(len(self.rows), size=count)]
        places = np.searchsorted(self.upto, generator.random(count) * self.upto[-1], side="right")
        drawn: NDArray[np.int64] = self.rows[places.clip(max=len(self.rows) - 1)]
        return drawn


class Batches(torch.utils.data.IterableDataset[Batch]):
    """A stage's epochs: each a shuffled pass over some rows of the examples, in batches of one size (or one less).

    Where pairs are drawn by weight, an epoch is as many draws as there are rows. Shown pairs are drawn beside them.
    The order depends on the seed and the epoch alone, so that a resumed run sees what an unbroken one would.
    """

    def __init__(self, examples: Examples, rows: NDArray[np.int64], stage: Stage, seed: int) -> None:
        """`stage.batch_size` is the most that a batch holds of `rows`.

        Raises:
            MercatoError: the stage reads shown pairs and there are none.
        """
        super().__init__()
        self.examples, self.rows, self.stage, self.seed, self.epoch = examples, rows, stage, seed, 0
        self.batch_size = max(2, min(stage.batch_size, len(rows)))
        self._pool = examples.pool(rows)
        self._shown = examples.pool(examples.shown) if stage.reads_shown else None
        if stage.reads_shown and not len(examples.shown):
            raise MercatoError(
                "stages: engagement_weight and mixed negatives learn from pairs with label 0 (shown and not engaged),"
                " and the market's train split has none: leave both out"
            )

    def __len__(self) -> int:
        return max(1, -(-len(self.rows) // self.batch_size))

    def __iter__(self) -> Iterator[Batch]:
        return self._made() if self.examples.photos is None else ahead(self._made())

    def _made(self) -> Iterator[Batch]:
        examples, stage = self.examples, self.stage
        generator = np.random.default_rng((self.seed, self.epoch))
        if self._pool.upto is None:
            order = generator.permutation(self.rows)
        else:
            order = self._pool.draw(len(self.rows), generator)
        for rows in np.array_split(order, len(self)):
            shown = None
            if self._shown is not None:
                shown = self._shown.draw(max(1, round(stage.shown * len(rows))), generator)
            yield examples.batch(rows, generator, shown, stage.negatives == "mixed")


def take(features: Features, rows: NDArray[np.int64], spec: FeatureSpec) -> Features:
    """These rows of a feature table, ids cut to the longest of them."""
    taken = Features()
    for name, array in features.items():
        part = array[rows]
        if name.endswith(("tokens", "trigrams")):
            fill = spec.pad_id if name.endswith("tokens") else 0
            part = part[:, : max(1, int((part != fill).any(0).sum()))]
        taken[name] = part
    return taken


def hide(products: Features, fields: tuple[str, ...], where: NDArray[np.bool_], spec: FeatureSpec) -> None:
    """Blank fields of some rows, in place, as if the seller had left them out."""
    for field in fields:
        blanks = {f"{field}_tokens": spec.pad_id, f"{field}_trigrams": 0}
        for name, blank in ({"image_mask": 0} if field == "images" else blanks).items():
            if name in products:
                products[name][where] = blank
        if spec.context is not None and "context_numbers" in products:
            numbers, categories = spec.context.read_from(field)
            told = spec.context.features([{}], datetime.now(UTC))  # of a product of which nothing is known
            for column in (*numbers, *(place + len(spec.context.numbers) for place in numbers)):
                products["context_numbers"][where, column] = told["context_numbers"][0, column]
            for column in categories:
                products["context_categories"][where, column] = 0


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
