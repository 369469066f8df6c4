"""Multi-label softmax cross-entropy: a product's likely queries (Que2Search §3.1.1; Mahajan et al. 2018)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def multi_label(logits_MY: Tensor, classes_MK: Tensor) -> Tensor:
    """Cross-entropy against a target that shares one among a product's classes: 1/k each for k of them.

        loss_p = −(1/k) Σ_{c in classes of p} log softmax(logits_p)_c

    Args:
        logits_MY: float, (M, Y).
        classes_MK: int64, (M, K): the classes of each product, -1 where it has fewer than K.

    Returns:
        The mean over the products that have a class, a scalar; 0 where none has.
    """
    present_MK = classes_MK >= 0
    log_MK = F.log_softmax(logits_MY, 1).gather(1, classes_MK.clamp(min=0))
    count_M = present_MK.sum(1)
    loss_M = -(log_MK * present_MK).sum(1) / count_M.clamp(min=1)
    return loss_M.sum() / (count_M > 0).sum().clamp(min=1)
