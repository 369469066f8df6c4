"""Symmetric scaled in-batch softmax (Que2Search Eq. 3)."""

from __future__ import annotations

from torch import Tensor

from mercato.losses.in_batch_softmax import in_batch_softmax


def symmetric_softmax(cosine_BB: Tensor, excluded_BB: Tensor, scale: float) -> Tensor:
    """The query finds its product among the batch's, and the product its query: the mean of both softmax losses.

        loss_i = −½ ( log( e^{s·cos(q_i, d_i)} / Σ_j e^{s·cos(q_i, d_j)} )
                    + log( e^{s·cos(q_i, d_i)} / Σ_j e^{s·cos(q_j, d_i)} ) )

    The paper prints (q_j, d_i) in the second numerator; the pair's own query is meant. For queries against products it
    found no gain over the plain loss; for products against products, 2 % of ROC AUC.

    Args:
        cosine_BB: cos(q_i, d_j), float, (B, B).
        excluded_BB: bool, (B, B), True where column j is no negative for row i; read both ways.
        scale: s, 15 to 20 in the paper.

    Returns:
        The mean over the batch, a scalar.
    """
    forth, back = (in_batch_softmax(cosine, excluded, scale) for cosine, excluded in (
        (cosine_BB, excluded_BB), (cosine_BB.T, excluded_BB.T)
    ))  # fmt: skip
    return (forth + back) / 2
