from __future__ import annotations

import numpy as np
import torch

from mercato.config.stages import CoSENT
from mercato.losses.cosent import cosent
from mercato.training.tasks.graded import Graded
from tests.support.labelled_pairs import word_examples, word_tables, word_towers


def test_every_pair_is_ranked_by_its_grade():
    grades = np.array([1.0, 0.5, 0.0], np.float32)
    examples, model = word_examples(word_tables(), [(0, 0), (1, 1)], [(0, 2)], grade_N=grades), word_towers()
    batch = examples.batch(examples.rows(CoSENT()))
    query, product = model.query(batch.query)[0], model.product(batch.product)[0]
    cosines = (query[batch.query_B] * product[batch.product_B]).sum(1)
    expected = cosent(cosines, torch.from_numpy(grades), 15.0)
    torch.testing.assert_close(Graded(CoSENT(scale=15))(query, product, batch), expected)
