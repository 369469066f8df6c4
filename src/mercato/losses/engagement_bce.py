"""Binary cross-entropy on engaged and on unengaged pairs, shown and left (Que2Engage Eq. 2)."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor


def engagement_bce(cosine_N: Tensor, target_N: Tensor, scale: float, threshold: Tensor | float = 0.0) -> Tensor:
    """Of the products that a searcher was shown, the engaging ones are likely, the others are not.

        c_i = s · (cos(q_i, d_i) − τ),    loss_i = −y_i log σ(c_i) − (1 − y_i) log(1 − σ(c_i))

    | row i                                                | y_i                        |
    |------------------------------------------------------|----------------------------|
    | a pair that somebody engaged with                    | 1                          |
    | a pair shown and left                                | 0                          |
    | a pair left on the way, where its grade says how far | the share that was walked  |

    The paper prints log(c_i) of a c_i = s·κ that may be negative: the sigmoid is understood. It has no τ, so that a
    pair must reach cos < 0 to be unlikely, however relevant it is; a learned τ lets "unlikely" begin anywhere.

    Args:
        cosine_N: cos(q_i, d_i), float, (N,).
        target_N: y, float or bool, (N,), 0 to 1; between them (not the paper's), cross-entropy against a soft target.
        scale: s, 20 in the paper.
        threshold: τ; a step of the optimiser on it is s such steps on the logit's bias −s·τ.

    Returns:
        The mean over the rows, a scalar; 0 where there is none.
    """
    logit_N = scale * (cosine_N - threshold)
    return F.binary_cross_entropy_with_logits(logit_N, target_N.to(logit_N.dtype), reduction="sum") / max(
        1, len(logit_N)
    )
