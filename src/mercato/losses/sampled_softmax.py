"""Sampled softmax: a query's own product among a sample of the catalogue, or all of it, in bounded memory.

Shapes: B queries, J columns (products that are negatives of all of them), D the dimension, E excluded places.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint

EXCLUDED = -1e9  # finite: a chunk may hold nothing else, and of infinities alone the gradient is NaN


def sampled_softmax(own_B: Tensor, others_B: Tensor) -> Tensor:
    """Cross-entropy of each query's own product, from its logit and `log_sum` of the others.

        loss_i = −log( exp(s_i) / (exp(s_i) + Σ_{j ∈ sample} exp(s_ij) / Q_j) )

    Q_j is how often product j is expected among the columns. The sum is then right on average for the sum over all
    products but the own (importance sampling; Bengio & Senécal 2008), and where the columns are all products, Q = 1,
    the loss is that of the full softmax. The own product is there for certain, not drawn: its logit is not corrected
    (as Yi et al. 2019 do with Q of the batch, which weighs the loss of a popular product otherwise; for the difference
    see Khrylchenko et al., "Correcting the LogQ Correction", RecSys 2025), and it is excluded among the columns.

    Args:
        own_B: the logits of the own products, float32, (B,).
        others_B: `log_sum` of the columns, (B,).

    Returns:
        The mean over the batch, a scalar.
    """
    return F.softplus(others_B - own_B).mean()


def log_sum(
    query_BD: Tensor,
    vectors: Callable[[int, int], Tensor],
    *,
    scale: Tensor | float,
    log_q_J: Tensor,
    excluded_E2: Tensor,
    country_B: Tensor | None = None,
    country_J: Tensor | None = None,
    chunk: int | None = None,
) -> Tensor:
    """log Σ_j exp(s·cos(q_i, d_j) − log Q_j) over all columns that are not excluded, (B,) float32.

    Logits and vectors of `chunk` columns are held at a time, and made again on the way back, so that memory is bounded
    by the chunk whatever J is, for one more forward pass.

    Args:
        query_BD: unit vectors, (B, D) float32.
        vectors: makes the unit vectors of the columns from one number to before another; called twice for each chunk.
        scale: s.
        log_q_J: float32, (J,).
        excluded_E2: rows and columns that are no negatives of one another, int64, (E, 2), sorted by column.
        country_B, country_J: int64; what a search in a row's country cannot find is no negative of it. A row of country
            0 is searched anywhere, a column of 0 is of no country.
        chunk: columns at a time; None: all.
    """
    count = len(log_q_J)
    size = count if chunk is None else chunk
    starts = range(0, count, max(1, size))
    row_E, column_E = excluded_E2.T.contiguous()
    edges = torch.searchsorted(column_E, torch.tensor([*starts, count], device=column_E.device)).tolist()

    def part(query_BD: Tensor, scale: Tensor | float, number: int) -> Tensor:
        start = starts[number]
        stop, own = min(start + size, count), slice(edges[number], edges[number + 1])
        logits_BK = (scale * query_BD) @ vectors(start, stop).T - log_q_J[start:stop]
        logits_BK[row_E[own], column_E[own] - start] = EXCLUDED
        if country_B is not None and country_J is not None:
            here_B1, there_K = country_B.unsqueeze(1), country_J[start:stop]
            elsewhere_BK = (here_B1 != there_K) & (here_B1 != 0)
            logits_BK = logits_BK.masked_fill(elsewhere_BK, EXCLUDED)
        return logits_BK.logsumexp(1)

    if len(starts) == 1:
        return part(query_BD, scale, 0)
    parts = [
        checkpoint(part, query_BD, scale, number, use_reentrant=False, preserve_rng_state=False)
        for number in range(len(starts))
    ]
    return torch.stack(parts).logsumexp(0)
