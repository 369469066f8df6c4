"""Multi-label softmax cross-entropy: a product's likely queries (Que2Search §3.1.1; Mahajan et al. 2018)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def multi_label(logits_PC: Tensor, classes_PK: Tensor) -> Tensor:
    """Cross-entropy against a target that shares one among a product's classes: 1/k each for k of them.

        loss_p = −(1/k) Σ_{c in classes of p} log softmax(logits_p)_c

    Args:
        logits_PC: float, (P, C).
        classes_PK: int64, (P, K): the classes of each product, -1 where it has fewer than K.

    Returns:
        The mean over the products that have a class, a scalar; 0 where none has.
    """
    present_PK = classes_PK >= 0
    log_PK = F.log_softmax(logits_PC, 1).gather(1, classes_PK.clamp(min=0))
    count_P = present_PK.sum(1)
    loss_P = -(log_PK * present_PK).sum(1) / count_P.clamp(min=1)
    return loss_P.sum() / (count_P > 0).sum().clamp(min=1)
