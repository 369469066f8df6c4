"""The recall task: frozen content vectors, joined with ID embeddings, against a sample of the catalogue or all of it.

Shapes: B pairs of a batch, J columns; Q queries, W products as seen (`mercato.training.data.recall`); K ids of a row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mercato.config import Recipe
from mercato.features.featurizer import Features, FeatureSpec
from mercato.fields import FEATURES
from mercato.losses.multi_label import multi_label
from mercato.losses.sampled_softmax import log_sum, sampled_softmax
from mercato.models.recall import IDS
from mercato.models.tower import Inputs, Tower, TwoTower
from mercato.training.data.batches import length_of
from mercato.training.data.frequency import StreamingFrequency
from mercato.training.data.recall import RecallBatch, RecallBatches
from mercato.training.task import Losses, Validation
from mercato.training.tasks.query_prediction import HEAD, HEAD_SCALE
from mercato.training.tasks.relevance import RELEVANCE

ROWS = 256  # that are encoded at a time
MOST_BUCKETS = 1 << 20  # of the frequency estimate: 12 MB
LARGEST_SCALE = 100.0  # as CLIP clips it (Radford et al. 2021), without which training may run away


class Content(NamedTuple):
    """What a tower makes of its rows before the join, and their ids, where it reads them."""

    vectors_RD: Tensor  # unit vectors, float32
    ids_RK: Tensor | None  # int64


class Recall(nn.Module):
    """A task (`mercato.training.task`): sampled softmax over joined vectors, with a learned temperature.

    Content is computed at the first batch and only read from there on: the encoders' parameters get no gradient, and so
    stay as they are. Temperature and frequency estimate are the task's own; a run does not keep them.
    """

    def __init__(self, *, batches: RecallBatches, validation: Validation | None, recipe: Recipe) -> None:
        super().__init__()
        self.batches, self.validation, self.stage = batches, validation, batches.stage
        stage = batches.stage
        self.query_dropout = recipe.query_tower.id_dropout
        self.product_dropout = recipe.product_tower.modality_dropout.ids
        self.head_weight = recipe.head.weight
        self.log_scale = nn.Parameter(torch.tensor(math.log(stage.scale)))
        engaged = len(np.unique(batches.examples.product_N[batches.examples.engaged]))
        self.frequency = StreamingFrequency(
            min(batches.products, MOST_BUCKETS), stage.frequency_rate, max(1.0, engaged / batches.batch_size)
        )
        self._content: tuple[Content, Content] | None = None

    def losses(self, towers: TwoTower, batch: RecallBatch) -> Losses:
        """The loss of relevance, and the head's where there is one; in float32."""
        if self._content is None:
            self._content = self._frozen(towers, batch.query_B.device)
        query, product = self._content
        with torch.autocast(batch.query_B.device.type, enabled=False):
            query_BD = _joined(towers.query, query, batch.query_B, _drawn(batch.query_B, self.query_dropout))
            product_BD = _joined(
                towers.product, product, batch.product_B, _drawn(batch.product_B, self.product_dropout)
            )
            hidden_J = _drawn(batch.column_J, self.product_dropout)  # once: the chunks are made twice

            def columns(start: int, stop: int) -> Tensor:
                return _joined(towers.product, product, batch.column_J[start:stop], hidden_J[start:stop])

            scale = self.log_scale.exp().clamp(max=LARGEST_SCALE)
            others_B = log_sum(
                query_BD,
                columns,
                scale=scale,
                log_q_J=self._log_q(batch),
                excluded_E2=batch.excluded_E2,
                country_B=batch.country_B,
                country_J=batch.country_J,
                chunk=self.stage.micro_batch,
            )
            own_B = scale * (query_BD * product_BD).sum(1)
            found: Losses = {RELEVANCE: (1.0, sampled_softmax(own_B, others_B))}
            if towers.head is not None:
                loss = multi_label(towers.head(HEAD_SCALE * product_BD), batch.classes_BK)
                found[HEAD] = (self.head_weight, loss)
        return found

    def _log_q(self, batch: RecallBatch) -> Tensor:
        """Log of how often each column's product is expected among the columns, (J,): drawn, or brought by the batch.

        The sampler's part is known exactly, the batch's is estimated; a product may come either way.
        """
        if self.stage.negatives == "all":
            return torch.zeros_like(batch.drawn_J)
        self.frequency.update(batch.product_B % self.batches.products)
        if not self.stage.log_q:
            return torch.zeros_like(batch.drawn_J)
        share_J = torch.from_numpy(self.batches.share_C).to(batch.drawn_J)[batch.country_J]
        brought_J = self.frequency.probability(batch.column_J % self.batches.products) / share_J
        return (batch.drawn_J + brought_J.clamp(max=1)).log()

    @torch.no_grad()
    def _frozen(self, towers: TwoTower, device: torch.device) -> tuple[Content, Content]:
        """The content of every query, and of every product that a batch may hold, in each way that it is seen."""
        training, tables, batches = towers.training, self.batches.examples.tables, self.batches
        towers.eval()
        spec, queries = tables.spec, length_of(tables.queries)
        rows = _by_length(tables.queries, spec, np.arange(queries))
        query = _content(towers.query, tables.query_inputs, rows, queries, device)

        def look(rows: NDArray[np.int64], fields: Sequence[str]) -> Inputs:
            inputs = tables.product_inputs(rows, fields)
            return inputs if towers.vision is None else towers.vision.look(inputs)

        rows = _by_length(tables.products, spec, batches.rows())
        views = [
            _content(towers.product, partial(look, fields=fields), rows, batches.products, device)
            for fields in batches.views
        ]
        towers.train(training)
        ids = [view.ids_RK for view in views if view.ids_RK is not None]
        return query, Content(torch.cat([view.vectors_RD for view in views]), torch.cat(ids) if ids else None)


def _content(
    tower: Tower,
    inputs_of: Callable[[NDArray[np.int64]], Inputs],
    rows: NDArray[np.int64],
    length: int,
    device: torch.device,
) -> Content:
    """The content of some rows of a table of this length, zeros elsewhere."""
    vectors_RD = ids_RK = None
    for part in np.array_split(rows, -(-len(rows) // ROWS)):
        inputs, places = inputs_of(part), torch.from_numpy(part).to(device)
        found_BD = tower.content({name: value.to(device) for name, value in inputs.items()})
        if vectors_RD is None:
            vectors_RD = torch.zeros(length, found_BD.shape[1], device=device)
        vectors_RD[places] = found_BD
        if IDS in tower.channels:
            ids_BK = inputs[tower.table[IDS].features[0].name].to(device)
            if ids_RK is None:
                ids_RK = torch.zeros(length, ids_BK.shape[1], dtype=ids_BK.dtype, device=device)
            ids_RK[places] = ids_BK
    assert vectors_RD is not None
    return Content(vectors_RD, ids_RK)


def _joined(tower: Tower, content: Content, row_B: Tensor, hidden_B: Tensor) -> Tensor:
    """Unit vectors (B, D) of some rows, as if the hidden ones' ids were unknown."""
    ids_BK = None if content.ids_RK is None else content.ids_RK[row_B].masked_fill(hidden_B.unsqueeze(1), 0)
    return tower.joined(content.vectors_RD[row_B], ids_BK)


def _drawn(rows_B: Tensor, rate: float) -> Tensor:
    """Which rows' ids are hidden: (B,) bool."""
    return torch.rand(len(rows_B), device=rows_B.device) < rate


def _by_length(features: Features, spec: FeatureSpec, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Rows of a table, by the length of what they hold, so that a batch pads little."""
    held_R = np.zeros(len(rows), np.int64)
    for name, array in features.items():
        if FEATURES[name].ragged:
            held_R += (array[rows] != spec.missing(name)).sum(1)
    return rows[np.argsort(held_R, kind="stable")]
