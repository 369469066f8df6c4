from __future__ import annotations

import numpy as np
import torch

from mercato.config.stages import InBatchSoftmax
from mercato.losses.engagement_bce import engagement_bce
from tests.support.labelled_pairs import word_examples, word_tables, word_towers
from tests.support.tasks import losses_of


def test_the_second_task_reads_engaged_and_unengaged_pairs():
    examples = word_examples(word_tables(), [(0, 0), (1, 1), (0, 2), (2, 3)], [(0, 1), (1, 3), (2, 0)])
    model = word_towers(threshold=True)
    batch = examples.batch(np.array([0, 1, 3]), unengaged=np.array([4, 6, 5]))
    with torch.no_grad():
        model.threshold.fill_(0.3)
    query, product = model.query(batch.query)[0], model.product(batch.product)[0]
    own = (query[batch.query_B] * product[batch.product_B]).sum(1)
    left = (query[batch.unengaged_query_U] * product[batch.unengaged_product_U]).sum(1)
    expected = engagement_bce(torch.cat([own, left]), torch.tensor([1.0] * 3 + [0.0] * 3), 20.0, 0.3)
    found = losses_of(model, batch, InBatchSoftmax(relevance_weight=0.8, engagement_weight=0.2))
    assert {name: weight for name, (weight, _) in found.items()} == {"relevance": 0.8, "engagement": 0.2}
    loss = found["engagement"][1]
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.threshold.grad, "the threshold learns"


def test_a_pair_left_on_the_way_is_a_soft_target():
    target = np.array([1, 1, 0, 1 / 3, 2 / 3], np.float32)
    grade = np.array([0.5, 1, 0, 1 / 3, 2 / 3], np.float32)  # an engaged pair's target is 1, whatever its grade
    pairs = [(0, 0), (1, 1)], [(0, 1), (1, 3), (2, 0)]
    examples, model = word_examples(word_tables(), *pairs, grade_N=grade, target_N=target), word_towers()
    batch = examples.batch(np.array([0, 1]), unengaged=np.array([4, 2, 3]))
    query, product = model.query(batch.query)[0], model.product(batch.product)[0]
    own = (query[batch.query_B] * product[batch.product_B]).sum(1)
    left = (query[batch.unengaged_query_U] * product[batch.unengaged_product_U]).sum(1)
    expected = engagement_bce(torch.cat([own, left]), torch.tensor([1.0, 1.0, 2 / 3, 0.0, 1 / 3]), 20.0)
    loss = losses_of(model, batch, InBatchSoftmax(engagement_weight=0.2))["engagement"][1]
    torch.testing.assert_close(loss, expected)
