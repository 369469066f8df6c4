"""How likely a searcher is to look at each position, from what was shown at several of them by itself.

Intervention harvesting with the AllPairs estimator (Agarwal, Zaitsev, Wang, Li, Najork & Joachims, "Estimating Position
Bias without Intrusive Interventions", WSDM 2019): no traffic is randomised. Where a product appeared for one query at
position k at one time and at k' at another, its clicks tell the two apart, as its relevance is the same. A click at k
has the chance :math:`p_k r_{kk'}` (position-based model): p is the position's propensity, r the mean relevance of what
was shown at both.
"""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import polars as pl

from mercato.evaluation.metrics.arrays import FloatArray, IntArray, tie_starts

MOST = 100  # positions told apart; later ones are as the last
FEWEST = 20  # clicks (shares of impressions, summed), harvested at a position, under which nothing is said of it
FLOOR = 0.1  # a propensity is never taken as less, so that no click counts more than tenfold (Strehl et al., NIPS 2010)
UNITS = 65_536  # (query, country, product)s looked at at once
STEPS, TOLERANCE = 5000, 1e-7  # of the loop, and of a step's largest change


def estimate_propensities(lists: pl.DataFrame) -> FloatArray | None:
    """The propensity of each position, that of the first being 1.

    Assumes that looking depends on the position alone, that nobody clicks what was not looked at, and that a product's
    relevance to a query does not change with the position it is given. Neither order nor smoothness is forced. What a
    rule or exploration placed is left out: a badge beside it draws looks and clicks of its own, so that it is not as
    likely to be clicked as where the order had it, were the positions alike.

    Args:
        lists: displayed lists of the past: `query`, `country`, `product_id`, `position` (from 1), `placed_by` and
            `depth` (at least 1 where it was clicked; rows where it is null say nothing).

    Returns:
        float (K,), the propensity of position 1 … K, at least `FLOOR`; None where nothing was shown at the first
        position and at another one, with `FEWEST` clicks each. A position with fewer takes the last one's; so do those
        beyond K (`at`).
    """
    clicks_KK, passes_KK = _harvest(lists)
    enough_K = clicks_KK.sum(axis=1) >= FEWEST
    if not enough_K[:1].any() or not enough_K[1:].any():
        return None
    found_K = most_likely(clicks_KK, passes_KK)
    last = int(np.flatnonzero(enough_K)[-1]) + 1
    known_K = np.maximum.accumulate(np.where(enough_K, np.arange(len(enough_K)), 0))[:last]
    propensities_K: FloatArray = np.maximum(found_K[known_K] / found_K[0], FLOOR)
    return propensities_K


def at(propensities_K: FloatArray, positions_P: IntArray) -> FloatArray:
    """The propensity of each position (1 the first); beyond the last known one, that of the last: (P,)."""
    return propensities_K[np.clip(positions_P, 1, len(propensities_K)) - 1]


def most_likely(clicks_KK: FloatArray, passes_KK: FloatArray) -> FloatArray:
    r"""Maximise AllPairs' likelihood (equation 8 of the paper) by expectation maximisation: p (K,), up to a factor.

    .. math:: \sum_{k \ne k'} c_{kk'} \log(p_k r_{kk'}) + \bar c_{kk'} \log(1 - p_k r_{kk'}), \qquad r_{kk'} = r_{k'k}

    A click was looked at and relevant. One that passed was looked at with the chance
    :math:`p (1 - r) / (1 - p r)`, and relevant with :math:`r (1 - p) / (1 - p r)`.

    Args:
        clicks_KK: weighted clicks at the position of the row, of what was shown at that of the column too.
        passes_KK: the same without a click.
    """
    shown_KK = clicks_KK + passes_KK
    shown_K, both_KK = shown_KK.sum(axis=1), shown_KK + shown_KK.T
    p_K, r_KK = np.full(len(shown_K), 0.5), np.full(shown_KK.shape, 0.5)
    for _ in range(STEPS):
        unlikely_KK = passes_KK / (1 - p_K[:, None] * r_KK)
        looked_K = (clicks_KK + unlikely_KK * p_K[:, None] * (1 - r_KK)).sum(axis=1)
        relevant_KK = clicks_KK + unlikely_KK * r_KK * (1 - p_K[:, None])
        before_K, p_K = p_K, np.divide(looked_K, shown_K, out=p_K.copy(), where=shown_K > 0)
        r_KK = np.divide(relevant_KK + relevant_KK.T, both_KK, out=r_KK.copy(), where=both_KK > 0)
        p_K = p_K / p_K.max()  # the scale of p and r is free: the most likely position is always looked at
        if np.abs(p_K - before_K).max() < TOLERANCE:
            break
    return p_K


def _harvest(lists: pl.DataFrame) -> tuple[FloatArray, FloatArray]:
    """Clicks and passes by the position of each and the other one at which the same was shown: (K, K) each.

    Each (query, country, product) counts at a position by the share of its impressions there that were clicked, so that
    what is often shown there weighs no more than what is often shown elsewhere (w in the paper).
    """
    key = ["query", "country", "product_id"]
    numbers = [pl.col(name).cast(pl.Categorical).to_physical().cast(pl.Int64).fill_null(-1) for name in key]
    shown = (
        lists.filter(
            pl.col("depth").is_not_null() & pl.col("position").is_between(1, MOST) & pl.col("placed_by").is_null()
        )
        .with_columns(numbers)
        .group_by(*key, "position")
        .agg(clicked=(pl.col("depth") >= 1).mean())
        .sort(*key, "position")
    )
    starts = tie_starts(*(shown[name].to_numpy() for name in key))
    size = shown["position"].max()
    clicks_KK, shown_KK = np.zeros((2, int(size or 0), int(size or 0)))  # type: ignore[arg-type]
    edges = [*starts[::UNITS].tolist(), len(shown)]
    for first, end in pairwise(edges):
        rows = shown[first:end]
        place = np.searchsorted(starts, np.arange(first, end), side="right") - 1
        cells = place - place[0], rows["position"].to_numpy() - 1
        clicked_UK, here_UK = np.zeros((2, place[-1] - place[0] + 1, len(clicks_KK)))
        clicked_UK[cells], here_UK[cells] = rows["clicked"].to_numpy(), 1
        clicks_KK += clicked_UK.T @ here_UK
        shown_KK += here_UK.T @ here_UK
    apart_KK = 1 - np.eye(len(clicks_KK))
    return clicks_KK * apart_KK, (shown_KK - clicks_KK) * apart_KK
