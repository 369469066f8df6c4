"""Scaled in-batch softmax (Que2Search Eq. 2; Que2Engage Eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def in_batch_softmax(cosine_BB: Tensor, excluded_BB: Tensor, scale: float) -> Tensor:
    """Cross-entropy of each query's own product among the batch's products.

        loss_i = −log( exp(s·cos(q_i, d_i)) / Σ_j exp(s·cos(q_i, d_j)) )

    | row i           | column j = i      | column j ≠ i                                   |
    |-----------------|-------------------|------------------------------------------------|
    | pair (q_i, d_i) | the true class    | a negative, unless `excluded_BB[i, j]` is True |

    Exclusion keeps true pairs from being taught as false: the same product again in the batch, or another product
    that the same query engaged. With nothing excluded this is the paper's loss.

    Args:
        cosine_BB: cos(q_i, d_j), float, (B, B).
        excluded_BB: bool, (B, B); its diagonal must be False.
        scale: s, 15 to 20 in the paper; without it the loss does not converge.

    Returns:
        The mean over the batch, a scalar.
    """
    logits_BB = (scale * cosine_BB).masked_fill(excluded_BB, float("-inf"))
    own_B = torch.arange(len(logits_BB), device=logits_BB.device)
    return F.cross_entropy(logits_BB, own_B)
