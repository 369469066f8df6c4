"""Graded pairs: every better pair of the batch must lie closer than every worse one (CoSENT, Su 2022)."""

from __future__ import annotations

import torch
from torch import Tensor


def cosent(cosine_B: Tensor, grade_B: Tensor, scale: float) -> Tensor:
    """Rank all pairs of a batch by their grade, whatever their query.

        loss = log( 1 + Σ_{grade_i > grade_j} exp(s·(cos_j − cos_i)) )

    A smooth bound of the worst misorder: a direct stand-in for a pooled ROC AUC over judged pairs, and the loss for
    judgments with near misses, or for unengaged pairs. In-batch losses only know pairs that are right.

    Args:
        cosine_B: cos(q_i, d_i), float, (B,).
        grade_B: float, (B,), higher is better.
        scale: s, 20 in the source.

    Returns:
        A scalar; 0 where all grades are alike.
    """
    better_BB = grade_B[:, None] > grade_B[None, :]
    gaps_P = scale * (cosine_B[None, :] - cosine_B[:, None])[better_BB]
    return torch.cat([gaps_P, gaps_P.new_zeros(1)]).logsumexp(0)
