"""Pairs as batches of tower inputs: every distinct query and product of a batch is encoded once.

Shapes: B pairs of a batch, U unengaged ones beside them for a second task, V whose products are mixed negatives;
Q and M the distinct queries and products; J = B + V.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.config.stages import Fitting, PairStage
from mercato.errors import MercatoError
from mercato.features.drop import drop_features
from mercato.features.featurizer import Features, FeatureSpec
from mercato.fields import FEATURES
from mercato.models.tower import Inputs, tensors
from mercato.models.vision import PIXELS
from mercato.training.data.images import ProductImages, ahead
from mercato.training.data.sampling import Pool, QueryPool
from mercato.training.task import Epochs

NOTHING = np.zeros(0, np.int64)


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """What one step of training on pairs reads."""

    query: Inputs  # of Q distinct queries
    product: Inputs  # of M distinct products (as seen: with or without dropped fields)
    query_B: Tensor  # which of the Q, int64
    product_B: Tensor  # which of the M, int64
    unengaged_query_U: Tensor  # the same of unengaged pairs, where the stage learns engagement
    unengaged_product_U: Tensor
    unengaged_target_U: Tensor  # float32, 0 to 1: how far engaged all the same
    mixed_product_V: Tensor  # which of the M are negatives of every row beside the B pairs' own
    log_q_J: Tensor  # float32: log of how often a batch holds each column's product; zeros where that is not corrected
    excluded_BJ: Tensor  # bool: column j, a product of the B pairs or a mixed negative, is no negative for row i
    grade_B: Tensor  # float32, higher is better
    classes_MK: Tensor  # int64: which of the head's queries find each product, -1 = none more; K = 0 without a head

    def __len__(self) -> int:
        return len(self.query_B)

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        moved: dict[str, Any] = {
            name: {k: v.to(device) for k, v in value.items()} if isinstance(value, dict) else value.to(device)
            for name, value in vars(self).items()
        }
        return replace(self, **moved)

    def only(self, pairs_b: Tensor) -> Self:
        """Some of the B pairs, int64; the unengaged ones and the mixed negatives stay."""
        others = torch.arange(len(self), self.excluded_BJ.shape[1], device=pairs_b.device)
        columns_j = torch.cat([pairs_b, others])
        return replace(
            self,
            query_B=self.query_B[pairs_b],
            product_B=self.product_B[pairs_b],
            grade_B=self.grade_B[pairs_b],
            log_q_J=self.log_q_J[columns_j],
            excluded_BJ=self.excluded_BJ[pairs_b][:, columns_j],
        )


@dataclass(frozen=True, kw_only=True)
class FeatureTables:
    """The features of every query and product of a market."""

    queries: Features
    products: Features
    spec: FeatureSpec
    images: ProductImages | None = None  # of every row of `products`, where an image encoder is fine-tuned

    def query_inputs(self, rows: NDArray[np.int64]) -> Inputs:
        """What the query tower reads of some queries."""
        return tensors(take(self.queries, rows, self.spec))

    def product_inputs(self, rows: NDArray[np.int64], drop_fields: Sequence[str] = ()) -> Inputs:
        """What the product tower reads of some products, all of them without `drop_fields`."""
        features = take(self.products, rows, self.spec)
        if drop_fields:
            drop_features(features, drop_fields, self.spec)
        if self.images is not None:
            features[PIXELS] = self.images.pixels(rows, features["image_mask"].sum(1))
        return tensors(features)


@dataclass(frozen=True, kw_only=True)
class Examples:
    """Query–product pairs as rows of the feature tables: N pairs."""

    tables: FeatureTables
    query_N: NDArray[np.int64]
    product_N: NDArray[np.int64]
    grade_N: NDArray[np.float32]
    engaged_N: NDArray[np.bool_]  # the others were shown and left, or graded low: never in-batch positives
    target_N: NDArray[np.float32] | None = None  # of the engagement task, 0 to 1; None: 1 where engaged
    drop_fields: Sequence[tuple[str, ...]] = ((),)  # of products: sets of which a pair drops one
    drop_N: NDArray[np.int64] | None = None  # which of them; None: the first
    typos_QK: NDArray[np.int64] | None = None  # rows of the queries that are each query with a typo
    typo_share: float = 0.0  # of a batch's pairs
    weight_N: NDArray[np.float64] | None = None  # sessions; None: all alike
    weight_power: float = 0.0  # pairs are drawn by their weight to this power; 0: every engaged pair once an epoch
    position_N: NDArray[np.float64] | None = None  # the mean one at which each was shown, from 1; NaN: unknown
    country_N: NDArray[np.int64] | None = None  # of the query, numbered from 1, 0 for none; None: all of one
    country_M: NDArray[np.int64] | None = None  # of the products, where pairs stay within a country
    days_N: NDArray[np.int64] | None = None  # the listing's age when the pair was last seen, −1 unknown
    classes_MK: NDArray[np.int64] | None = None  # of the head, for every row of the products; -1 = none more

    @cached_property
    def engaged(self) -> NDArray[np.int64]:
        """The rows of true pairs."""
        return np.flatnonzero(self.engaged_N)

    @cached_property
    def unengaged(self) -> NDArray[np.int64]:
        """The rows of all other pairs."""
        return np.flatnonzero(~self.engaged_N)

    def rows(self, stage: PairStage) -> NDArray[np.int64]:
        """The pairs that a stage learns from."""
        return np.arange(len(self)) if stage.graded else self.engaged

    @cached_property
    def _known(self) -> NDArray[np.int64]:
        return np.unique(self._key(self.query_N[self.engaged_N], self.product_N[self.engaged_N]))

    def _key(self, query: NDArray[np.int64], product: NDArray[np.int64]) -> NDArray[np.int64]:
        return query * length_of(self.tables.products) + product

    def __len__(self) -> int:
        return len(self.query_N)

    def batch(
        self,
        rows: NDArray[np.int64],
        generator: np.random.Generator | None = None,
        unengaged: NDArray[np.int64] = NOTHING,
        mixed: NDArray[np.int64] = NOTHING,
        log_q_M: NDArray[np.float32] | None = None,
    ) -> PairBatch:
        """The batch of these pairs, of `unengaged` ones beside them, and of `mixed` ones that give negatives alone.

        `generator` decides which queries have a typo, none where it is None. `log_q_M` is of every row of the products.
        """
        columns = np.concatenate([rows, mixed])
        asked = np.concatenate([rows, unengaged])
        queries, query_P = np.unique(self.spelt(asked, generator), return_inverse=True)
        places, product_P, products = self.products(np.concatenate([asked, mixed]), generator)
        counts = [len(rows), len(unengaged), len(mixed)]
        query_B, unengaged_query_U = torch.split(torch.from_numpy(query_P), counts[:2])
        product_B, unengaged_product_U, mixed_product_V = torch.split(torch.from_numpy(product_P), counts)
        classes = np.zeros((len(places), 0), np.int64) if self.classes_MK is None else self.classes_MK[places]
        return PairBatch(
            query=self.tables.query_inputs(queries),
            product=tensors(products),
            query_B=query_B,
            product_B=product_B,
            unengaged_query_U=unengaged_query_U,
            unengaged_product_U=unengaged_product_U,
            unengaged_target_U=torch.from_numpy(
                np.zeros(len(unengaged), np.float32) if self.target_N is None else self.target_N[unengaged]
            ),
            mixed_product_V=mixed_product_V,
            log_q_J=torch.from_numpy(
                np.zeros(len(columns), np.float32) if log_q_M is None else log_q_M[self.product_N[columns]]
            ),
            excluded_BJ=torch.from_numpy(self._excluded(rows, columns)),
            grade_B=torch.from_numpy(self.grade_N[rows]),
            classes_MK=torch.from_numpy(classes),
        )

    def spelt(self, pairs: NDArray[np.int64], generator: np.random.Generator | None) -> NDArray[np.int64]:
        """The queries of P pairs as each is read, rows of the table (P,): some with a typo, which `generator` draws."""
        read = self.query_N[pairs]
        if generator is not None and self.typos_QK is not None:
            slipped = generator.random(len(pairs)) < self.typo_share
            which = generator.integers(self.typos_QK.shape[1], size=len(pairs))
            read = np.where(slipped, self.typos_QK[read, which], read)
        return read

    def positives(self, pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The known positives of P pairs' queries: which of the pairs (E,), and which products (E,)."""
        products, query_P = length_of(self.tables.products), self.query_N[pairs]
        first_P, end_P = (np.searchsorted(self._known, (query_P + more) * products) for more in (0, 1))
        pair_E, place_E = spread(first_P, end_P)
        return pair_E, self._known[place_E] % products

    def products(
        self,
        pairs: NDArray[np.int64],
        generator: np.random.Generator | None = None,
        beside: NDArray[np.int64] = NOTHING,
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], Features]:
        """The distinct products of some pairs as each is seen, and of rows `beside` them, of which nothing is dropped.

        Returns:
            Rows of the table (M,); which of these each of the P pairs, then each row beside, reads (P,); the features.
        """
        spec, images = self.tables.spec, self.tables.images
        # A product is encoded once for each way it is seen: what is dropped, and how old it was.
        seen_P3 = np.stack([self.product_N[pairs], np.zeros_like(pairs), np.zeros_like(pairs)], axis=1)
        if self.drop_N is not None:
            seen_P3[:, 1] = self.drop_N[pairs]
        if self.days_N is not None:
            seen_P3[:, 2] = self.days_N[pairs]
        whole = -1 if any(self.drop_fields) else 0
        others_3 = np.stack(
            [beside, np.full_like(beside, whole), np.full_like(beside, -1 if self.days_N is not None else 0)], axis=1
        )
        instances, product_P = np.unique(np.concatenate([seen_P3, others_3]), axis=0, return_inverse=True)
        places, drops, days = instances.T
        products = take(self.tables.products, places, spec)
        for kind, fields in enumerate(self.drop_fields):
            if fields:
                drop_features(products, fields, spec, drops == kind)
        if self.days_N is not None and spec.context is not None and (columns := spec.context.age_columns):
            seconds = np.where(days < 0, np.nan, days * 86_400.0)
            products["context_numbers"][:, columns] = spec.context.ages(seconds)
        if images is not None:
            own = None if generator is None else generator.spawn(1)[0]  # which leaves the other draws as they were
            products[PIXELS] = images.pixels(places, products["image_mask"].sum(1), own)
        return places, product_P.ravel(), products

    def pool(self, rows: NDArray[np.int64], position_power: float = 0.0) -> Pool:
        """Some of the pairs, to draw from by their weight to `weight_power` and position to minus `position_power`."""
        return Pool.of(rows, self._weights(rows, position_power))

    def query_pool(self, rows: NDArray[np.int64], position_power: float = 0.0) -> QueryPool:
        """The same, to draw from query by query."""
        return QueryPool.of(
            rows, self.query_N[rows], self._weights(rows, position_power), length_of(self.tables.queries)
        )

    def _weights(self, rows: NDArray[np.int64], position_power: float) -> NDArray[np.float64] | None:
        weight_K = None
        if self.weight_power and self.weight_N is not None:
            weight_K = self.weight_N[rows] ** self.weight_power
        if position_power:
            assert self.position_N is not None
            position_K = self.position_N[rows]
            position_K = np.where(np.isnan(position_K), np.nanmean(position_K), position_K).clip(min=1)
            weight_K = (1.0 if weight_K is None else weight_K) * position_K**-position_power
        return weight_K

    def _excluded(self, rows: NDArray[np.int64], columns: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Every column that holds a known positive of its row's query, or the row's own product again."""
        excluded_BJ = self.known(self.query_N[rows], self.product_N[columns])
        np.fill_diagonal(excluded_BJ, False)
        return excluded_BJ

    def known(self, queries: NDArray[np.int64], products: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Whether some queries (Q,) are known to have engaged some products (M,), rows of the tables: (Q, M)."""
        keys_QM = self._key(queries[:, None], products[None, :])
        place_QM = np.searchsorted(self._known, keys_QM).clip(max=len(self._known) - 1)
        known_QM: NDArray[np.bool_] = self._known[place_QM] == keys_QM
        return known_QM


def batches_of(
    order: NDArray[np.int64], count: int, stage: Fitting, examples: Examples, generator: np.random.Generator
) -> list[NDArray[np.int64]]:
    """An epoch's pairs, in their order, as so many batches: by country where the stage wants it."""
    if stage.batches == "shuffled" or examples.country_N is None:
        return np.array_split(order, count)
    rank = generator.permutation(examples.country_N.max() + 1)  # another's pairs end up beside it every epoch
    batches = np.array_split(order[np.argsort(rank[examples.country_N[order]], kind="stable")], count)
    return [batches[number] for number in generator.permutation(count)]


class PairBatches(Epochs[PairBatch]):
    """A stage's epochs: each a shuffled pass over some rows of the examples, in batches of one size (or one less).

    Where pairs are drawn by weight, an epoch is as many draws as there are rows. Unengaged pairs are drawn beside them:
    for the second task from all of them, for mixed negatives from those of each row's own query or from all.
    """

    def __init__(self, examples: Examples, rows: NDArray[np.int64], stage: PairStage, seed: int) -> None:
        """`stage.batch_size` is the most that a batch holds of `rows`.

        Raises:
            MercatoError: the stage reads unengaged pairs and there are none.
        """
        super().__init__(seed)
        self.examples, self.rows, self.stage = examples, rows, stage
        self.batch_size = max(2, min(stage.batch_size, len(rows)))
        self._pool = examples.pool(rows)
        if stage.unengaged_per_pair and not len(examples.unengaged):
            raise MercatoError(
                "stages: engagement_weight and mixed negatives learn from pairs with label 0 (shown and not engaged),"
                " and the market's train split has none: leave both out"
            )
        unengaged, power = examples.unengaged, stage.position_power
        self._unengaged = examples.pool(unengaged, power)
        self._own = examples.query_pool(unengaged, power) if stage.mixed_negatives == "own" else None
        self._log_q_M = self._log_q() if stage.corrects_log_q else None

    def __len__(self) -> int:
        return max(1, -(-len(self.rows) // self.batch_size))

    def __iter__(self) -> Iterator[PairBatch]:
        return self._made() if self.examples.tables.images is None else ahead(self._made())

    def _made(self) -> Iterator[PairBatch]:
        examples, stage = self.examples, self.stage
        generator = np.random.default_rng((self.seed, self.epoch))
        if self._pool.upto_K is None:
            order = generator.permutation(self.rows)
        else:
            order = self._pool.draw(len(self.rows), generator)
        for rows in batches_of(order, len(self), stage, examples, generator):
            count = max(1, round(stage.unengaged_per_pair * len(rows)))
            unengaged = self._unengaged.draw(count, generator) if stage.learns_engagement else NOTHING
            yield examples.batch(rows, generator, unengaged, self._mixed(rows, generator), self._log_q_M)

    def _mixed(self, rows: NDArray[np.int64], generator: np.random.Generator) -> NDArray[np.int64]:
        """Unengaged pairs whose products are negatives of every row."""
        a_row = self.stage.unengaged_per_pair
        if self._own is not None:
            # A row's share may be broken: of 1.5, every other row has 2.
            times = np.diff(np.floor(a_row * np.arange(len(rows) + 1) + 1e-9).astype(np.int64))
            return self._own.draw(np.repeat(self.examples.query_N[rows], times), generator)
        if self.stage.mixed_negatives == "any":
            return self._unengaged.draw(max(1, round(a_row * len(rows))), generator)
        return NOTHING

    def _log_q(self) -> NDArray[np.float32]:
        """Log of how many columns of a batch are each product, for each engaged pair, (M,); −inf where none ever is."""
        examples, a_row = self.examples, self.stage.unengaged_per_pair
        products, queries = length_of(examples.tables.products), length_of(examples.tables.queries)
        rows, chance = self._pool.rows_K, self._pool.chances()
        columns_M = summed(examples.product_N, rows, chance, products)
        if self._own is not None:
            drawn = self._own.chances(summed(examples.query_N, rows, chance, queries))
            columns_M += a_row * summed(examples.product_N, self._own.rows_K, drawn, products)
        elif self.stage.mixed_negatives == "any":
            drawn = self._unengaged.chances()
            columns_M += a_row * summed(examples.product_N, self._unengaged.rows_K, drawn, products)
        with np.errstate(divide="ignore"):
            return np.log(columns_M).astype(np.float32)


def summed(
    of_N: NDArray[np.int64], rows_K: NDArray[np.int64], chance_K: NDArray[np.float64], length: int
) -> NDArray[np.float64]:
    """How likely each query, or product, is to be a draw: `of_N` says which one each pair has."""
    return np.bincount(of_N[rows_K], chance_K, length).astype(np.float64)


def spread(first_N: NDArray[np.int64], end_N: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Every number from a first to before an end: of which of the N each is, and the number itself."""
    count_N = end_N - first_N
    of_E = np.repeat(np.arange(len(count_N)), count_N)
    before_N = np.cumsum(count_N) - count_N
    return of_E, np.arange(len(of_E)) - before_N[of_E] + first_N[of_E]


def length_of(features: Features) -> int:
    """The length of a feature table."""
    return len(next(iter(features.values())))


def take(features: Features, rows: NDArray[np.int64], spec: FeatureSpec) -> Features:
    """These rows of a feature table, ids cut to the longest of them."""
    taken = Features()
    for name, array in features.items():
        part = array[rows]
        if FEATURES[name].ragged:
            fill = spec.missing(name)
            part = part[:, : max(1, int((part != fill).any(0).sum()))]
        taken[name] = part
    return taken
