"""Pretraining batches: engaged pairs, products and queries without a pair beside them, and what is masked of all.

Shapes: B pairs of a batch; Q distinct queries and M distinct products, those without a pair among them; L tokens,
I images, P patches of one, S = I · P.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.config.pretraining import TASKS, Pretraining
from mercato.features.featurizer import FeatureSpec
from mercato.fields import PRODUCT_CHANNELS
from mercato.models.tower import Inputs, tensors
from mercato.training.data.batches import Examples, batches_of
from mercato.training.data.crops import Cropper, Crops
from mercato.training.data.masking import WordMask, Words, mask_patches
from mercato.training.task import Epochs

TITLE = "title_tokens"
WORDS_OR_PATCHES = 0.5  # of the products that have both, those of which words are masked, of the others patches


@dataclass(frozen=True, kw_only=True)
class PretrainingBatch:
    """What one step of pretraining reads."""

    tasks: frozenset[str]  # the tasks that it learns
    query: Inputs  # of Q queries
    product: Inputs  # of M products
    masked_query: Inputs  # the same with masked words
    masked_product: Inputs  # the same with masked words in some rows
    told_query_QL: Tensor  # bool: the tokens that are to be told
    told_product: dict[str, Tensor]  # the same by feature, (M, L)
    hidden_MS: Tensor  # bool: the patches that are masked and to be told, in other rows; S = 0 without patches
    query_B: Tensor  # int64: which of the Q each pair has
    product_B: Tensor  # which of the M
    product_M: Tensor  # int64: their rows in the table; one that is seen in two ways is there twice
    unpaired_U: Tensor  # which of the M have no pair here
    known_QM: Tensor  # bool: the query is known to have engaged the product
    crops: Crops  # of those without a pair, where ICT is on

    def __len__(self) -> int:
        return max(1, len(self.query_B))

    def to(self, device: torch.device) -> Self:
        """The same on a device."""
        moved: dict[str, Any] = {
            name: {k: v.to(device) for k, v in value.items()} if isinstance(value, dict) else value.to(device)
            for name, value in vars(self).items()
            if name != "tasks"
        }
        return replace(self, **moved)


class PretrainingBatches(Epochs[PretrainingBatch]):
    """Epochs of pretraining: each a shuffled pass over the engaged pairs, with products and queries of no pair.

    It has steps enough to see about as many products beside them as there are: a market with few pairs learns of its
    products all the same, and one whose every pair is held out of them alone.
    """

    def __init__(
        self,
        examples: Examples,
        *,
        pairs: NDArray[np.int64],
        products: NDArray[np.int64],
        queries: NDArray[np.int64],
        stage: Pretraining,
        words: Words,
        mask: WordMask | None,
        spec: FeatureSpec,
        seed: int,
    ) -> None:
        """`pairs` are rows of the examples; `products` and `queries`, rows of the tables, are drawn beside them.

        `words` tells those of the tokenizer, `spec` what it makes of texts; without a `mask` no words are masked.
        """
        super().__init__(seed)
        self.examples, self.stage, self.mask = examples, stage, mask
        self.pairs, self.products, self.queries = pairs, products, queries
        channels = [PRODUCT_CHANNELS[name] for name in examples.tables.spec.product_channels]
        self.text = [channel.features[0].name for channel in channels if channel.kind == "text"]
        self.tasks = {name: task.rate for name in TASKS if (task := getattr(stage, name)).weight > 0}
        title_first = sorted(self.text, key=lambda name: name != TITLE)
        self.cropper = Cropper(stage.ict, words, title_first, spec.pad_id, spec.query_tokens)

    def __len__(self) -> int:
        by_pairs = len(self.pairs) / self.stage.batch_size
        if len(self.pairs) and not self.stage.unpaired:
            return max(1, math.ceil(by_pairs))
        whole = self.stage.batch_size * (1 + self.stage.unpaired)
        return max(1, math.ceil(max(by_pairs, (len(self.pairs) + len(self.products)) / whole)))

    def __iter__(self) -> Iterator[PretrainingBatch]:
        generator = np.random.default_rng((self.seed, self.epoch))
        order = generator.permutation(self.pairs)
        for rows in batches_of(order, len(self), self.stage, self.examples, generator):
            tasks = [name for name, rate in self.tasks.items() if generator.random() < rate]
            beside = round(self.stage.unpaired * self.stage.batch_size)
            alone = beside
            if self.stage.unpaired or not len(rows):  # few pairs are no reason for small batches
                alone += max(0, self.stage.batch_size - len(rows))
            products, queries = _draw(self.products, alone, generator), _draw(self.queries, beside, generator)
            yield self.batch(rows, products, queries, generator, tasks)

    def batch(
        self,
        rows: NDArray[np.int64],
        products: NDArray[np.int64],
        queries: NDArray[np.int64],
        generator: np.random.Generator,
        tasks: list[str] | None = None,
    ) -> PretrainingBatch:
        """The batch of these pairs, with products and queries beside them; of every task that is on, or of `tasks`."""
        examples, tables = self.examples, self.examples.tables
        place_M, product_P, features = examples.products(rows, beside=products)
        place_Q, query_P = np.unique(np.concatenate([examples.query_N[rows], queries]), return_inverse=True)
        query = tables.query_inputs(place_Q)
        product_B = product_P[: len(rows)]
        present_MS = self._patches(features)
        words_M = self._words(features, present_MS, generator)
        masked, told = dict(features), {}
        for name in self.text:
            read_ML, told_ML = self._masked(features[name], generator)
            masked[name] = np.where(words_M[:, None], read_ML, features[name])
            told[name] = torch.from_numpy(told_ML & words_M[:, None])
        read_QL, told_QL = self._masked(query["tokens"].numpy(), generator)
        hidden_MS = mask_patches(present_MS & ~words_M[:, None], self.stage.mpm.share, generator)
        tasks_here = frozenset(self.tasks if tasks is None else tasks)
        unpaired_U = np.setdiff1d(np.arange(len(place_M)), product_B)
        cropped_C = unpaired_U if "ict" in tasks_here else unpaired_U[:0]
        return PretrainingBatch(
            tasks=tasks_here,
            query=query,
            product=tensors(features),
            masked_query=query | {"tokens": torch.from_numpy(read_QL)},
            masked_product=tensors(masked),
            told_query_QL=torch.from_numpy(told_QL),
            told_product=told,
            hidden_MS=torch.from_numpy(hidden_MS),
            query_B=torch.from_numpy(query_P[: len(rows)]),
            product_B=torch.from_numpy(product_B),
            product_M=torch.from_numpy(place_M),
            unpaired_U=torch.from_numpy(unpaired_U),
            known_QM=torch.from_numpy(examples.known(place_Q, place_M)),
            crops=self.cropper.crops(
                features, {name: tables.products[name][place_M] for name in self.text}, place_M, cropped_C, generator
            ),
        )

    def _masked(
        self, tokens_BL: NDArray[np.int64], generator: np.random.Generator
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Tokens with masked words, and which are to be told."""
        if self.mask is None:
            return tokens_BL, np.zeros(tokens_BL.shape, bool)
        return self.mask.apply(tokens_BL, self.stage.mlm.share, generator)

    def _words(
        self, features: dict[str, NDArray[Any]], present_MS: NDArray[np.bool_], generator: np.random.Generator
    ) -> NDArray[np.bool_]:
        """Which products have words masked, (M,): all that have words alone, half of those that have patches too."""
        mask = self.mask
        if mask is None:
            return np.zeros(len(present_MS), bool)
        has_words_M = np.any([mask.words.words_W[features[name]].any(1) for name in self.text], axis=0)
        by_chance_M = generator.random(len(present_MS)) < WORDS_OR_PATCHES
        has_patches_M = present_MS.any(1) & ("mpm" in self.tasks)
        words_M: NDArray[np.bool_] = has_words_M & (by_chance_M | ~has_patches_M)
        return words_M

    def _patches(self, features: dict[str, NDArray[Any]]) -> NDArray[np.bool_]:
        """Which patches there are, (M, S)."""
        if "patches" not in features:
            return np.zeros((len(next(iter(features.values()))), 0), bool)
        return np.repeat(features["patch_mask"], features["patches"].shape[2], axis=1)


def _draw(pool: NDArray[np.int64], count: int, generator: np.random.Generator) -> NDArray[np.int64]:
    """So many of them, each at most once."""
    return generator.choice(pool, min(count, len(pool)), replace=False) if len(pool) else pool
