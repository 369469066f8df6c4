"""Additive angular margin: ArcFace (Deng et al., "Additive Angular Margin Loss for Deep Face Recognition", 2019)."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from mercato.losses.in_batch_softmax import in_batch_softmax

NEARLY_ONE = 1 - 1e-6  # the arc's slope is endless at 1


def arcface(cosine_BJ: Tensor, excluded_BJ: Tensor, scale: float, margin: float) -> Tensor:
    """In-batch softmax in which the own product must win by a margin of its angle: its logit is s·cos(θ + m) (Eq. 3).

    Past θ = π − m, where cos(θ + m) would rise again, it goes on as cos θ − m·sin m, as in the authors' code.

    Args:
        cosine_BJ: cos θ of q_i and d_j, float, (B, J), J ≥ B.
        excluded_BJ: bool, (B, J), columns that are no negatives of a row; its diagonal must be False.
        scale: s.
        margin: m, in radians; the paper's: .5 for faces.

    Returns:
        The mean over the batch, a scalar.
    """
    own_B = cosine_BJ.diagonal()
    sine_B = (1 - own_B.clamp(-NEARLY_ONE, NEARLY_ONE).square()).sqrt()
    turned_B = own_B * math.cos(margin) - sine_B * math.sin(margin)
    turned_B = torch.where(own_B > math.cos(math.pi - margin), turned_B, own_B - margin * math.sin(margin))
    return in_batch_softmax(cosine_BJ + _diagonal(turned_B - own_B, cosine_BJ.shape[1]), excluded_BJ, scale)


def _diagonal(value_B: Tensor, columns: int) -> Tensor:
    """(B, J) with these values on the diagonal, zeros elsewhere."""
    return torch.nn.functional.pad(torch.diag(value_B), (0, columns - len(value_B)))
