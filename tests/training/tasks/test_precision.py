"""In bfloat16 the encoders alone are short: cosines, losses and the hardest negative are those of float32 vectors."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from mercato.config.stages import CoSENT, InBatchSoftmax, MarginRanking, ScaledBCE, SymmetricSoftmax
from mercato.losses.cosent import cosent
from mercato.losses.engagement_bce import engagement_bce
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.losses.margin_ranking import margin_ranking
from mercato.losses.multi_label import multi_label
from mercato.losses.scaled_bce import scaled_bce
from mercato.losses.symmetric_softmax import symmetric_softmax
from mercato.training.data.batches import PairBatches
from mercato.training.tasks.build import pair_objectives
from mercato.training.tasks.modalities import MULTIMODAL
from mercato.training.tasks.pairs import EncodedPairs, PairTask
from mercato.training.tasks.query_prediction import HEAD_SCALE
from tests.support.labelled_pairs import word_examples, word_tables, word_towers
from tests.support.tasks import TITLE, towers
from tests.support.tasks import batch as toy_batch

ENGAGED, UNENGAGED = [(0, 0), (1, 1), (0, 2), (2, 3), (3, 4), (4, 2)], [(0, 1), (1, 3), (2, 0)]


def half_losses(examples, model, batch, stage, **more):
    """The losses of a task under autocast, and the vectors that its encoders made."""
    task = PairTask(
        batches=PairBatches(examples, examples.engaged, InBatchSoftmax(), 0),
        validation=None,
        objectives=pair_objectives(stage, **more),
    )
    with torch.autocast("cpu", torch.bfloat16):
        found = task.losses(model, batch)
        pairs = EncodedPairs.of(model, batch, None)
    assert pairs.query_QD.dtype == pairs.product_MD.dtype == torch.float32
    lengths = torch.cat([pairs.query_QD, pairs.product_MD]).double().norm(dim=1)
    assert (lengths - 1).abs().max() < 1e-6, "whole unit vectors"
    return {name: loss for name, (_, loss) in found.items()}, pairs.query_QD, pairs.product_MD


@pytest.mark.parametrize(
    ("stage", "loss"),
    [
        (InBatchSoftmax(), lambda cosine, excluded: in_batch_softmax(cosine, excluded, 20)),
        (SymmetricSoftmax(), lambda cosine, excluded: symmetric_softmax(cosine, excluded, 20)),
        (MarginRanking(margin=0.9), lambda cosine, excluded: margin_ranking(cosine, excluded, 0.9)),
        (ScaledBCE(), lambda cosine, excluded: scaled_bce(cosine, excluded, 20)),
    ],
    ids=lambda value: getattr(value, "loss", ""),
)
def test_in_batch_losses(stage, loss):
    examples, model = word_examples(word_tables(), ENGAGED, UNENGAGED), word_towers()
    mixed = np.array([6, 8]) if isinstance(stage, InBatchSoftmax) else np.zeros(0, np.int64)
    batch = examples.batch(np.arange(6), mixed=mixed)
    found, query, product = half_losses(examples, model, batch, stage)
    cosine = query[batch.query_B] @ product[torch.cat([batch.product_B, batch.mixed_product_V])].T
    assert found["relevance"].dtype == torch.float32
    assert torch.equal(found["relevance"], loss(cosine, batch.excluded_BJ))
    short = cosine.bfloat16().float()
    assert not torch.equal(loss(short, batch.excluded_BJ), found["relevance"]), "bfloat16 would show"


def test_the_engagement_task():
    examples, model = word_examples(word_tables(), ENGAGED, UNENGAGED), word_towers(threshold=True)
    batch = examples.batch(np.arange(3), unengaged=np.array([6, 7, 8]))
    stage = InBatchSoftmax(engagement_weight=0.2, engagement_bias=True)
    found, query, product = half_losses(examples, model, batch, stage)
    own = (query[batch.query_B] * product[batch.product_B]).sum(1)
    left = (query[batch.unengaged_query_U] * product[batch.unengaged_product_U]).sum(1)
    wanted = engagement_bce(torch.cat([own, left]), torch.tensor([1.0] * 3 + [0.0] * 3), 20, model.threshold)
    assert torch.equal(found["engagement"], wanted)


def test_graded_pairs():
    examples, model = word_examples(word_tables(), ENGAGED, UNENGAGED), word_towers()
    batch = examples.batch(np.arange(9))
    found, query, product = half_losses(examples, model, batch, CoSENT())
    cosine = (query[batch.query_B] * product[batch.product_B]).sum(1)
    assert torch.equal(found["relevance"], cosent(cosine, batch.grade_B, 20))


def test_the_head_and_a_modality_alone(prepared):
    model, batch = towers(prepared).eval(), toy_batch(prepared)
    more = {"blend": {MULTIMODAL: 1.0, TITLE: 0.5}, "head_weight": 0.1}
    found, query, product = half_losses(prepared.examples, model, batch, InBatchSoftmax(), **more)
    logits = model.head(HEAD_SCALE * product)
    assert torch.equal(found["head"], multi_label(logits, batch.classes_MK))
    with torch.autocast("cpu", torch.bfloat16):  # its fusion runs as the encoders do
        alone = model.product.fuse(model.product.encode(batch.product), only=TITLE.channels)[0]
    cosine = query[batch.query_B] @ alone[batch.product_B].T
    assert torch.equal(found["product.title"], in_batch_softmax(cosine, batch.excluded_BJ, 20))
