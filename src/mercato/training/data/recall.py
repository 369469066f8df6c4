"""Batches of the recall stage: rows of content vectors that were computed once, and the negatives of all of them.

Shapes: B pairs of a batch, J columns; M products of the catalogue, seen in V ways (by what is dropped of them).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.config.stages import SampledSoftmax
from mercato.training.data.batches import Examples, batches_of, length_of, spread
from mercato.training.data.sampling import Pool
from mercato.training.task import Epochs

SAMPLERS = 8  # kept, each of some countries: a number for every product


@dataclass(frozen=True, kw_only=True)
class RecallBatch:
    """What one step of the recall stage reads; a product as seen is row v·M + m of the content vectors."""

    query_B: Tensor  # rows of the queries, int64
    product_B: Tensor  # rows of the products as seen
    column_J: Tensor  # the same, of the shared negatives
    drawn_J: Tensor  # float32: how often the sampler is expected to draw each column's product
    excluded_E2: Tensor  # int64: row and column that are no negatives of one another, sorted by column
    country_B: Tensor  # int64: of the queries; 0: searched is anywhere
    country_J: Tensor  # of the columns; 0: of none
    classes_BK: Tensor  # int64: which of the head's queries find each product, -1 = none more; K = 0 without a head

    def __len__(self) -> int:
        return len(self.query_B)

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        return replace(self, **{name: value.to(device) for name, value in vars(self).items()})


class RecallBatches(Epochs[RecallBatch]):
    """Epochs of engaged pairs, drawn as for any stage of pairs, each batch with its negatives.

    They are the whole catalogue that may be learned from, or the batch's own products and a sample of the catalogue,
    uniform or partly by how often each product was engaged. Of batches by country they are those that a search in its
    country can find.
    """

    def __init__(self, examples: Examples, learnable: NDArray[np.int64], stage: SampledSoftmax, seed: int) -> None:
        """`learnable` are the rows of the products that may be learned from."""
        super().__init__(seed)
        self.examples, self.learnable, self.stage = examples, learnable, stage
        self.products = length_of(examples.tables.products)
        self.batch_size = max(2, min(stage.batch_size, len(examples.engaged)))
        self._pool = examples.pool(examples.engaged)
        kind_K = np.zeros(len(examples.engaged), np.int64)
        if examples.drop_N is not None:
            kind_K = examples.drop_N[examples.engaged]
        kinds, view_K, count_V = np.unique(kind_K, return_inverse=True, return_counts=True)
        self.views = [examples.drop_fields[kind] for kind in kinds]  # what is dropped of a product, by view
        self._view_N = np.zeros(len(examples), np.int64)
        self._view_N[examples.engaged] = view_K
        self._share_V = count_V / count_V.sum()
        self._country_N, self._country_M = np.zeros(len(examples), np.int64), np.zeros(self.products, np.int64)
        if stage.batches == "by_country" and examples.country_N is not None and examples.country_M is not None:
            self._country_N, self._country_M = examples.country_N, examples.country_M
        self._engaged_M = np.bincount(examples.product_N[examples.engaged], minlength=self.products)
        listed = np.unique(self._country_M[learnable])  # elsewhere nothing is found, and everything is a negative
        self._country_N = np.where(np.isin(self._country_N, listed), self._country_N, 0)
        drawn, countries = self._pool.rows_K, 1 + max(self._country_N.max(initial=0), self._country_M.max(initial=0))
        share_C = np.bincount(self._country_N[drawn], self._pool.chances(), minlength=countries)
        self.sampler = lru_cache(SAMPLERS)(self._sampler)
        self.share_C = np.where((share_C > 0) & (np.arange(countries) > 0), share_C, 1.0)  # of all pairs that are drawn

    def __len__(self) -> int:
        return max(1, -(-len(self.examples.engaged) // self.batch_size))

    def __iter__(self) -> Iterator[RecallBatch]:
        generator = np.random.default_rng((self.seed, self.epoch))
        if self._pool.upto_K is None:
            order = generator.permutation(self.examples.engaged)
        else:
            order = self._pool.draw(len(self.examples.engaged), generator)
        for rows in batches_of(order, len(self), self.stage, self.examples, generator):
            yield self._batch(rows, generator)

    def rows(self) -> NDArray[np.int64]:
        """The rows of all products that a batch may hold."""
        return np.union1d(self.learnable, self.examples.product_N[self.examples.engaged])

    def _sampler(self, countries: tuple[int, ...], negatives: int) -> tuple[Pool, NDArray[np.float32]]:
        """Draws products that a search in any of these countries can find; and how often it is expected to, (M,)."""
        share, found = self.stage.popularity_share, self._found(countries)
        chance_L = None
        if share and (engaged := self._engaged_M[found].sum()):
            chance_L = (1 - share) / len(found) + share * self._engaged_M[found] / engaged
        pool, drawn_M = Pool.of(found, chance_L), np.zeros(self.products, np.float32)
        drawn_M[found] = negatives * pool.chances()
        return pool, drawn_M

    def _found(self, countries: tuple[int, ...]) -> NDArray[np.int64]:
        """The rows of products to learn from that a search in any of these countries can find."""
        if 0 in countries:
            return self.learnable
        return self.learnable[np.isin(self._country_M[self.learnable], countries)]

    def _batch(self, rows: NDArray[np.int64], generator: np.random.Generator) -> RecallBatch:
        examples = self.examples
        query_B = examples.spelt(rows, generator)
        product_B = self._view_N[rows] * self.products + examples.product_N[rows]
        countries = tuple(np.unique(self._country_N[rows]).tolist())
        if self.stage.negatives == "all":
            column_J = self._seen(self._found(countries), generator)
            drawn_J = np.zeros(len(column_J), np.float32)
        else:
            pool, drawn_M = self.sampler(countries, self.stage.negatives)
            sample = self._seen(pool.draw(self.stage.negatives, generator), generator)
            column_J = np.concatenate([np.unique(product_B), sample])
            drawn_J = drawn_M[column_J % self.products]
        classes_MK = examples.classes_MK
        return RecallBatch(
            query_B=torch.from_numpy(query_B),
            product_B=torch.from_numpy(product_B),
            column_J=torch.from_numpy(column_J),
            drawn_J=torch.from_numpy(drawn_J),
            excluded_E2=torch.from_numpy(self._excluded(rows, column_J % self.products)),
            country_B=torch.from_numpy(self._country_N[rows]),
            country_J=torch.from_numpy(self._country_M[column_J % self.products]),
            classes_BK=torch.from_numpy(
                np.zeros((len(rows), 0), np.int64) if classes_MK is None else classes_MK[examples.product_N[rows]]
            ),
        )

    def _seen(self, product_J: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Products as seen, each in a way drawn as pairs have it: else its view would tell a negative."""
        if len(self.views) == 1:
            return product_J
        return generator.choice(len(self.views), len(product_J), p=self._share_V) * self.products + product_J

    def _excluded(self, rows: NDArray[np.int64], product_J: NDArray[np.int64]) -> NDArray[np.int64]:
        """Every place that holds a known positive of its row's query, (E, 2), its own product among them."""
        pair_P, product_P = self.examples.positives(rows)
        order_J = np.argsort(product_J, kind="stable")
        sorted_J = product_J[order_J]
        of_E, place_E = spread(
            np.searchsorted(sorted_J, product_P, side="left"), np.searchsorted(sorted_J, product_P, side="right")
        )
        excluded_E2 = np.stack([pair_P[of_E], order_J[place_E]], axis=1)
        return excluded_E2[np.argsort(excluded_E2[:, 1], kind="stable")]
