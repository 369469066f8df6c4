"""The hardest negative of each row of a batch (Que2Search §3.3)."""

from __future__ import annotations

import torch
from torch import Tensor


def hardest_negative(cosine_BB: Tensor, excluded_BB: Tensor) -> tuple[Tensor, Tensor]:
    """The highest cosine of each row besides the diagonal: cos(q_i, d_n) with n = argmax_{j≠i} cos(q_i, d_j).

    A product that `excluded_BB` marks (the query engaged it, or it is the row's own again) is never taken: the hardest
    "negative" would otherwise be a true positive most of the time.

    Args:
        cosine_BB: cos(q_i, d_j), float, (B, B).
        excluded_BB: bool, (B, B).

    Returns:
        The cosines of the pairs and of their hardest negatives, float (M,) each, for the M rows that have a negative.
    """
    own_BB = torch.eye(len(cosine_BB), dtype=torch.bool, device=cosine_BB.device)
    never_BB = excluded_BB | own_BB
    negative_B = cosine_BB.masked_fill(never_BB, float("-inf")).amax(1)
    rows_B = ~never_BB.all(1)
    return cosine_BB.diagonal()[rows_B], negative_B[rows_B]
