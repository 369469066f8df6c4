"""Scaled in-batch softmax (Que2Search Eq. 2; Que2Engage Eq. 1)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def in_batch_softmax(cosine_BJ: Tensor, excluded_BJ: Tensor, scale: float, log_q_J: Tensor | float = 0.0) -> Tensor:
    """Cross-entropy of each query's own product among the batch's products.

        loss_i = −log( exp(s·cos(q_i, d_i)) / Σ_j exp(s·cos(q_i, d_j)) )

    | row i           | column j = i      | column j ≠ i                                   |
    |-----------------|-------------------|------------------------------------------------|
    | pair (q_i, d_i) | the true class    | a negative, unless `excluded_BJ[i, j]` is True |

    Exclusion keeps true pairs from being taught as false: the same product again in the batch, or another product
    that the same query engaged. With nothing excluded this is the paper's loss. Columns past the B-th are nobody's true
    class: with products of unengaged pairs there, these are mixed negatives (Yang et al., "Mixed Negative
    Sampling for Learning Two-tower Neural Networks in Recommendations", 2020), Que2Engage's baseline.

    A batch holds what is popular more often than the catalogue does, and so pushes it away more often. With log Q every
    logit, the own one too, is s·cos(q_i, d_j) − log Q(d_j), and the loss that of a softmax over all products, sampled
    (Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", 2019, Eq. 3).

    Args:
        cosine_BJ: cos(q_i, d_j), float, (B, J), J ≥ B.
        excluded_BJ: bool, (B, J); its diagonal must be False.
        scale: s, 15 to 20 in the paper; without it the loss does not converge.
        log_q_J: log Q, float32, (J,), of how often a batch holds each column's product; a constant more is no matter.

    Returns:
        The mean over the batch, a scalar.
    """
    logits_BJ = (scale * cosine_BJ - log_q_J).masked_fill(excluded_BJ, float("-inf"))
    own_B = torch.arange(len(logits_BJ), device=logits_BJ.device)
    return F.cross_entropy(logits_BJ, own_B)
