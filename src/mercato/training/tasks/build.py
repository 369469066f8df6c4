"""From a stage of the recipe to its task: here a new task is registered."""

from __future__ import annotations

from typing import assert_never

from mercato.config import Recipe, Stage
from mercato.config.stages import AnyPairStage, CoSENT, InBatchStage, SampledSoftmax
from mercato.training.data.batches import PairBatches
from mercato.training.data.prepare import Prepared
from mercato.training.data.recall import RecallBatches
from mercato.training.task import AnyTask
from mercato.training.tasks.blending import Blend, ModalityLosses
from mercato.training.tasks.contrastive import Contrastive
from mercato.training.tasks.engagement import Engagement
from mercato.training.tasks.graded import Graded
from mercato.training.tasks.modalities import MULTIMODAL
from mercato.training.tasks.pairs import PairObjective, PairTask
from mercato.training.tasks.query_prediction import QueryPrediction
from mercato.training.tasks.recall import Recall
from mercato.training.tasks.relevance import RELEVANCE, Relevance, RelevanceLoss


def build_task(stage: Stage, *, recipe: Recipe, prepared: Prepared, blend: Blend, seed: int) -> AnyTask:
    """The task of a stage.

    Args:
        stage: what the recipe says of it; its class decides.
        recipe: the whole recipe, for what stages share.
        prepared: the market as training data.
        blend: the weights of gradient blending, empty without.
        seed: of the task's draws, another one each stage.

    Raises:
        MercatoError: the market lacks what the stage reads.
    """
    match stage:
        case InBatchStage() | CoSENT():
            examples = prepared.examples
            return PairTask(
                batches=PairBatches(examples, examples.rows(stage), stage, seed),
                validation=prepared.validation,
                objectives=pair_objectives(stage, blend, recipe.head.weight if prepared.head_queries else 0.0),
                micro_batch=stage.micro_batch,
            )
        case SampledSoftmax():
            return Recall(
                batches=RecallBatches(prepared.examples, prepared.learnable, stage, seed),
                validation=prepared.validation,
                recipe=recipe,
            )
    assert_never(stage)


def pair_objectives(stage: AnyPairStage, blend: Blend | None = None, head_weight: float = 0.0) -> list[PairObjective]:
    """What a stage learns of its pairs, in the order in which losses are added up; a head weighing 0 is left out."""
    loss, weight = _relevance(stage)
    name, whole = (MULTIMODAL.name, blend.get(MULTIMODAL, 1.0)) if blend else (RELEVANCE, 1.0)
    found: list[PairObjective] = [Relevance(loss=loss, weight=weight * whole, name=name)]
    if isinstance(stage, InBatchStage) and stage.engagement_weight:
        found.append(Engagement(stage))
    if blend:
        found.append(modality_losses(stage, blend))
    if head_weight:
        found.append(QueryPrediction(head_weight))
    return found


def modality_losses(stage: AnyPairStage, blend: Blend) -> ModalityLosses:
    """A stage's own loss for each modality of one tower, and nothing else of what it learns."""
    loss, weight = _relevance(stage)
    return ModalityLosses(loss=loss, weight=weight, blend=blend)


def _relevance(stage: AnyPairStage) -> tuple[RelevanceLoss, float]:
    """The loss that a stage names, and its weight."""
    match stage:
        case InBatchStage():
            return Contrastive(stage), stage.relevance_weight
        case CoSENT():
            return Graded(stage), 1.0
        case _:
            assert_never(stage)
