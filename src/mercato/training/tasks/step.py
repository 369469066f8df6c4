"""One step of pretraining: what the towers make of a batch, read once for all tasks, and only if one asks for it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mercato.models.taobao import PretrainingTowers, Read
from mercato.training.data.pretraining import PretrainingBatch


class Outcome(NamedTuple):
    """What a task makes of a batch."""

    loss: Tensor  # scalar
    accuracy: Tensor  # scalar, 1 the best: of classes the share told rightly, of numbers the variance told
    trivial: Tensor  # scalar: the loss of who knows no more than how often each answer is right


class PretrainingObjective(Protocol):
    """One task, in float32."""

    def outcome(self, step: Step) -> Outcome | None:
        """Its outcome; None where the batch has nothing for it."""


@dataclass(frozen=True, eq=False)
class Step:
    """A batch and what the towers read in it."""

    towers: PretrainingTowers
    batch: PretrainingBatch

    @cached_property
    def queries(self) -> Read:
        """The Q queries."""
        return self.towers.read_queries(self.batch.query)

    @cached_property
    def items(self) -> Read:
        """The M items, title and patches."""
        return self.towers.read_items(self.batch.product)

    @cached_property
    def titles(self) -> Read:
        """The M items without images."""
        return self.towers.read_items(self.batch.product, without="images")

    @cached_property
    def images(self) -> Read:
        """The M items without titles: a state of `items` would give the title away."""
        return self.towers.read_items(self.batch.product, without="text")

    @cached_property
    def crops(self) -> Read:
        """The C crops of titles, as queries."""
        return self.towers.read_queries({"tokens": self.batch.crops.tokens_CL})

    @cached_property
    def cropped_items(self) -> Read:
        """The C items that they are of, some without the crop's words."""
        return self.towers.read_items(self.batch.crops.product)

    @cached_property
    def masked_queries(self) -> Read:
        """The Q queries, words of them masked."""
        return self.towers.read_queries(self.batch.masked_query)

    @cached_property
    def masked_items(self) -> Read:
        """The M items, words of some and patches of others masked."""
        return self.towers.read_items(self.batch.masked_product, hidden_BS=self.hidden)

    @cached_property
    def masked_crossed(self) -> Tensor:
        """The B pairs with masked words and patches through the cross encoder: (B, L + S, H)."""
        batch = self.batch
        queries, items = self.masked_queries.rows(batch.query_B), self.masked_items.rows(batch.product_B)
        crossed: Tensor = self.towers.cross(queries, items)
        return crossed

    @property
    def has_images(self) -> Tensor:
        """Which items have an image."""
        mask_MI = self.batch.product.get("patch_mask")
        return self.batch.known_QM.new_zeros(self.batch.known_QM.shape[1]) if mask_MI is None else mask_MI.any(1)

    @cached_property
    def hidden(self) -> Tensor:
        """Which positions of the item tower's sequence are masked patches, bool."""
        return self._positions({}, self.batch.hidden_MS)

    @cached_property
    def told(self) -> Tensor:
        """Which positions of it hold a word that is to be told, bool."""
        return self._positions(self.batch.told_product, torch.zeros_like(self.batch.hidden_MS))

    @cached_property
    def tokens(self) -> Tensor:
        """The token at each position of it before masking, int64; 0 at a patch."""
        return self._positions(self.batch.product, self.batch.hidden_MS.long() * 0)

    def _positions(self, text: Mapping[str, Tensor], patches_MS: Tensor) -> Tensor:
        """What stands at each position of the item tower's sequence, whose channels come in its order."""
        tower = self.towers.product
        parts = []
        for name in tower.channels:
            channel = tower.table[name]
            if channel.kind == "patches":
                parts.append(patches_MS)
            else:
                feature = channel.features[0].name
                own = text.get(feature)
                parts.append(patches_MS.new_zeros(self.batch.product[feature].shape) if own is None else own)
        return F.pad(torch.cat(parts, 1), (0, tower.fusion.unread))
