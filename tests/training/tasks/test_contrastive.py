"""In-batch losses of engaged pairs, and the products of unengaged ones among their negatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mercato.config.stages import InBatchSoftmax, MarginRanking, ScaledBCE, SymmetricSoftmax
from mercato.losses.in_batch_softmax import in_batch_softmax
from mercato.losses.margin_ranking import margin_ranking
from mercato.losses.scaled_bce import scaled_bce
from mercato.losses.symmetric_softmax import symmetric_softmax
from mercato.training.data.batches import PairBatches
from mercato.training.tasks.contrastive import Contrastive
from tests.support.labelled_pairs import word_examples, word_tables, word_towers

ENGAGED = [(0, 0), (1, 1), (0, 2), (2, 3)]
UNENGAGED = [(0, 1), (1, 3), (2, 0)]
ROWS, BESIDE = np.array([0, 1, 3]), np.array([4, 6, 5])


@pytest.mark.parametrize(
    ("stage", "loss"),
    [
        (InBatchSoftmax(scale=15), lambda cosine, excluded: in_batch_softmax(cosine, excluded, 15)),
        (SymmetricSoftmax(scale=15), lambda cosine, excluded: symmetric_softmax(cosine, excluded, 15)),
        (MarginRanking(margin=0.3), lambda cosine, excluded: margin_ranking(cosine, excluded, 0.3, "sum")),
        (MarginRanking(reduction="mean"), lambda cosine, excluded: margin_ranking(cosine, excluded, 0.1, "mean")),
        (ScaledBCE(scale=15), lambda cosine, excluded: scaled_bce(cosine, excluded, 15)),
    ],
    ids=lambda value: getattr(value, "loss", ""),
)
def test_a_stage_has_the_loss_that_it_names(stage, loss):
    torch.manual_seed(0)
    cosine, excluded = torch.rand(4, 4) * 2 - 1, torch.zeros(4, 4, dtype=torch.bool)
    excluded[0, 2] = True
    assert torch.equal(Contrastive(stage).of_cosines(cosine, excluded), loss(cosine, excluded))


def test_mixed_negatives_are_more_columns_of_the_softmax():
    examples, model = word_examples(word_tables(), ENGAGED, UNENGAGED), word_towers()
    batch = examples.batch(ROWS, mixed=BESIDE)
    known = set(ENGAGED)
    columns = [product for _, product in [*(ENGAGED[row] for row in ROWS), *(UNENGAGED[row - 4] for row in BESIDE)]]
    wanted = [
        [(ENGAGED[row][0], product) in known and i != j for j, product in enumerate(columns)]
        for i, row in enumerate(ROWS)
    ]
    assert batch.excluded_BJ.tolist() == wanted and any(any(row[3:]) for row in wanted)
    query, product = model.query(batch.query)[0], model.product(batch.product)[0]
    cosines = query[batch.query_B] @ product[torch.cat([batch.product_B, batch.mixed_product_V])].T
    logits = (5 * cosines).masked_fill(torch.tensor(wanted), -torch.inf)
    loss = Contrastive(InBatchSoftmax(negatives="mixed", scale=5.0))(query, product, batch)
    torch.testing.assert_close(loss, F.cross_entropy(logits, torch.arange(3)), atol=1e-5, rtol=1e-5)
    assert examples.batch(ROWS, unengaged=BESIDE).excluded_BJ.shape == (3, 3)


def test_log_q_is_taken_from_every_logit_the_own_one_too():
    examples, model = word_examples(word_tables(), ENGAGED, UNENGAGED), word_towers()
    log_q = np.log(np.array([0.5, 0.1, 0.2, 0.15, 0.05], np.float32))
    batch = examples.batch(ROWS, mixed=BESIDE, log_q_M=log_q)
    query, product = model.query(batch.query)[0], model.product(batch.product)[0]
    columns = [product for _, product in [*(ENGAGED[row] for row in ROWS), *(UNENGAGED[row - 4] for row in BESIDE)]]
    total = 0.0
    for row in range(3):
        terms = []
        for column, place in enumerate([*batch.product_B, *batch.mixed_product_V]):
            if not batch.excluded_BJ[row, column]:
                cosine = (query[batch.query_B[row]] @ product[place]).item()
                terms.append(np.exp(5 * cosine) / np.exp(log_q[columns[column]]))
            if column == row:
                own = terms[-1]
        total -= np.log(own / sum(terms)) / 3
    loss = Contrastive(InBatchSoftmax(negatives="mixed", scale=5.0, log_q=True))(query, product, batch)
    assert loss.item() == pytest.approx(total, rel=1e-5)
    alike = examples.batch(ROWS, mixed=BESIDE, log_q_M=np.full(5, -3.0, np.float32))
    plain = examples.batch(ROWS, mixed=BESIDE)
    same = [Contrastive(InBatchSoftmax(scale=5.0))(query, product, one) for one in (alike, plain)]
    torch.testing.assert_close(*same)


def test_uniform_draws_of_products_that_come_once_are_corrected_by_a_constant():
    examples = word_examples(word_tables(), [(0, 0), (1, 1), (0, 2), (2, 3)])
    (batch,) = PairBatches(examples, examples.engaged, InBatchSoftmax(log_q=True), 0)
    assert batch.log_q_J.tolist() == pytest.approx([np.log(1 / 4)] * 4)
