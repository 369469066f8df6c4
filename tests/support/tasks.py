"""What the tests of training tasks share: a toy market prepared, towers for it, the losses of a stage."""

from __future__ import annotations

import torch

from mercato.config import Recipe
from mercato.config.stages import InBatchSoftmax, PairStage
from mercato.models.build import build_towers, text_configs
from mercato.models.tower import TwoTower
from mercato.training.data.batches import PairBatch
from mercato.training.data.prepare import Prepared
from mercato.training.task import Losses
from mercato.training.tasks.blending import Blend
from mercato.training.tasks.build import pair_objectives
from mercato.training.tasks.modalities import Modality
from mercato.training.tasks.pairs import EncodedPairs
from tests.support.toys import toy_recipe

HEADED = toy_recipe("head.queries=4")
TITLE = Modality("product.title", "product", ("title_text", "title_trigrams"))
LANGUAGE = Modality("product.language", "product", ("language",))
WORDS = Modality("query.text", "query", ("text", "trigrams"))


def towers(prepared: Prepared, recipe: Recipe = HEADED) -> TwoTower:
    torch.manual_seed(0)
    spec = prepared.featurizer.spec
    return build_towers(recipe, spec, text_configs(recipe, spec), len(prepared.head_queries))


def batch(prepared: Prepared, size: int = 16) -> PairBatch:
    return prepared.examples.batch(prepared.examples.engaged[:size])


def losses_of(
    model: TwoTower,
    data: PairBatch,
    stage: PairStage | None = None,
    blend: Blend | None = None,
    head_weight: float = 0.0,
) -> Losses:
    """The losses of a stage's task on one batch."""
    stage = stage or InBatchSoftmax()
    pairs = EncodedPairs.of(model, data, stage.micro_batch)
    objectives = pair_objectives(stage, blend, head_weight)
    return {name: loss for objective in objectives for name, loss in objective.losses(pairs).items()}
