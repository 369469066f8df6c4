"""Additive-margin softmax (Wang et al., "Additive Margin Softmax for Face Verification", 2018, Eq. 7)."""

from __future__ import annotations

import torch
from torch import Tensor

from mercato.losses.in_batch_softmax import in_batch_softmax


def am_softmax(cosine_BJ: Tensor, excluded_BJ: Tensor, scale: float, margin: float) -> Tensor:
    """In-batch softmax in which the own product must win by a margin of its cosine.

        loss_i = −log( exp(s·(cos(q_i, d_i) − m)) / ( exp(s·(cos(q_i, d_i) − m)) + Σ_{j≠i} exp(s·cos(q_i, d_j)) ) )

    With m = 0 it is the in-batch softmax.

    Args:
        cosine_BJ: cos(q_i, d_j), float, (B, J), J ≥ B.
        excluded_BJ: bool, (B, J), columns that are no negatives of a row; its diagonal must be False.
        scale: s.
        margin: m, of a cosine; the paper's: .35 for faces.

    Returns:
        The mean over the batch, a scalar.
    """
    own_BJ = torch.eye(*cosine_BJ.shape, dtype=cosine_BJ.dtype, device=cosine_BJ.device)
    return in_batch_softmax(cosine_BJ - margin * own_BJ, excluded_BJ, scale)
