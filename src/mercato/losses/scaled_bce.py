"""Scaled binary cross-entropy against the in-batch hardest negative (Que2Search Eq. 4)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from mercato.losses.hardest_negative import hardest_negative


def scaled_bce(cosine_BB: Tensor, excluded_BB: Tensor, scale: float) -> Tensor:
    """The pair is likely, its hardest negative is not.

        loss_i = −log σ(s·cos(q_i, d_i)) − log(1 − σ(s·cos(q_i, d_n)))

    The paper prints a plus between the terms, which would reward likely negatives: a misprint. Unlike margin ranking it
    asks for absolute levels: a negative must reach cos < 0 to be unlikely.

    Args:
        cosine_BB: cos(q_i, d_j), float, (B, B).
        excluded_BB: bool, (B, B), true pairs off the diagonal: never a negative.
        scale: s.

    Returns:
        The mean over the rows, a scalar; 0 where no row has a negative.
    """
    positive_M, negative_M = hardest_negative(cosine_BB, excluded_BB)
    # −log(1 − σ(x)) = softplus(x), without the rounding of a sigmoid near 1.
    loss_M = F.softplus(-scale * positive_M) + F.softplus(scale * negative_M)
    return loss_M.sum() / max(1, len(loss_M))
