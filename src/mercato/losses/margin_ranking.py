"""Margin ranking against the in-batch hardest negative (Que2Search Eq. 5)."""

from __future__ import annotations

from typing import Literal

import torch.nn.functional as F
from torch import Tensor

from mercato.losses.hardest_negative import hardest_negative


def margin_ranking(
    cosine_BB: Tensor, excluded_BB: Tensor, margin: float, reduction: Literal["sum", "mean"] = "sum"
) -> Tensor:
    """The pair must lead its hardest negative by a margin.

        loss_i = max(0, margin − (cos(q_i, d_i) − cos(q_i, d_n)))

    The second stage of the curriculum: it only looks at what is still close, so it pays once the first stage has
    converged. Pairs that already lead by the margin give no gradient.

    Args:
        cosine_BB: cos(q_i, d_j), float, (B, B).
        excluded_BB: bool, (B, B), true pairs off the diagonal: never a negative.
        margin: .1 to .2 in the paper.
        reduction: over the rows; the paper found `sum` better than `mean`.

    Returns:
        A scalar; 0 where no row has a negative.
    """
    positive_M, negative_M = hardest_negative(cosine_BB, excluded_BB)
    loss_M = F.relu(margin - (positive_M - negative_M))
    return loss_M.sum() / (max(1, len(loss_M)) if reduction == "mean" else 1)
