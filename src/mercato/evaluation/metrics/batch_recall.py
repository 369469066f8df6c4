"""Batch recall@K: does a query find its own product among those of one batch (Que2Search §3.4)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from mercato.evaluation.metrics.arrays import BoolArray
from mercato.evaluation.metrics.metric import QueryMean, ScoredBatches, Statistic

# --- kernel


def diagonal_in_top(scores_BB: npt.NDArray[np.floating], k: int) -> BoolArray:
    """Whether fewer than `k` other products of the row score at least as high as the diagonal one: bool (B,)."""
    rivals_B = (scores_BB >= np.diagonal(scores_BB)[:, None]).sum(axis=1) - 1
    return np.asarray(rivals_B < k)


# --- public


def batch_recall(queries_BD: npt.NDArray[np.floating], products_BD: npt.NDArray[np.floating], k: int = 1) -> float:
    r"""Batch recall of aligned query and product vectors: row i of both is an engaged pair.

    .. math:: \frac1B \sum_i \big[\, |\{j \ne i : \cos(q_i, d_j) \ge \cos(q_i, d_i)\}| < K \,\big]

    A tie counts against: a constant encoder gets 0 (unless B ≤ K). The figure depends on B: quote it with the batch.
    The batch must hold no query and no product twice, else copies count as rivals.

    Args:
        queries_BD: float (B, D), unit length.
        products_BD: float (B, D), unit length.
        k: the ranks looked at.

    Returns:
        A number in [0, 1]; NaN for an empty batch.
    """
    if not len(queries_BD):
        return float("nan")
    return float(diagonal_in_top(queries_BD @ products_BD.T, k).mean())


def draw_batches(
    queries_P: npt.NDArray[np.int64], products_P: npt.NDArray[np.int64], seed: int, size: int = 768
) -> list[npt.NDArray[np.int64]]:
    """Deal pairs into equal batches of at most `size` in which no query and no product occurs twice.

    Every query gives at most one pair (drawn at random among its own), so that each counts once and no batch is a
    small, easy remainder made of the most frequent queries.

    Args:
        queries_P: int (P,), the query of each engaged pair.
        products_P: int (P,), its product.
        seed: of the draw.
        size: the largest batch; Que2Search trains with 768.

    Returns:
        Arrays of positions in the pairs, one a batch, their sizes differing by at most 1.
    """
    queries, products, chosen = set[int](), set[int](), list[int]()
    for pair in np.random.default_rng(seed).permutation(len(queries_P)).tolist():
        query, product = int(queries_P[pair]), int(products_P[pair])
        if query not in queries and product not in products:
            queries.add(query)
            products.add(product)
            chosen.append(pair)
    return np.array_split(np.array(chosen, dtype=np.int64), max(1, -(-len(chosen) // size))) if chosen else []


def mean_batch_recall(k: int) -> Callable[[ScoredBatches], Statistic]:
    """The mean batch recall@k over the queries of all batches."""

    def statistic(batches: ScoredBatches) -> Statistic:
        found_Q = np.concatenate([diagonal_in_top(scores_BB, k) for scores_BB in batches.scores_BB])
        return QueryMean(found_Q.astype(np.float64))

    return statistic
