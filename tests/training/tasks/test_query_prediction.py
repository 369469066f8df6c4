from __future__ import annotations

import numpy as np
import torch

from mercato.losses.multi_label import multi_label
from mercato.training.tasks.query_prediction import HEAD, HEAD_SCALE
from tests.support.tasks import batch, losses_of, towers


def test_the_head_is_taught_the_queries_of_each_product(prepared):
    assert len(prepared.head_queries) == 4
    model, data = towers(prepared).eval(), batch(prepared)
    weight, loss = losses_of(model, data, head_weight=0.3)[HEAD]
    goods = np.unique(prepared.examples.product_N[prepared.examples.engaged[:16]])
    classes = prepared.examples.classes_MK[goods]
    logits = model.head(HEAD_SCALE * model.product(data.product)[0])
    assert weight == 0.3
    torch.testing.assert_close(loss, multi_label(logits, torch.from_numpy(classes)))
    assert HEAD not in losses_of(model, data)
