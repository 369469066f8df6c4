"""What the log alone says of a pair or product, without reading either: how much of engagement is exposure or fame."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

from mercato.evaluation.dataset import EvaluationSet
from mercato.evaluation.metrics.arrays import FloatArray, IntArray

PRIOR = 20  # impressions, at the rate of all products, that every product is given beforehand


def impressions(dataset: EvaluationSet) -> tuple[IntArray, IntArray, FloatArray] | None:
    """How often each pair was shown in the measured period itself; None where nobody knows.

    No system could know it beforehand: it is the confounder that a label "engaged at least once" invites.

    Returns:
        The queries and products of the pairs, as rows, and their impressions: (P,) each. A pair may be there twice, as
        one of the pairs table and by counting displayed lists, of which the larger number holds.
    """
    found = []
    if dataset.engagement and not np.isnan(dataset.engagement.impressions).all():
        pairs = dataset.engagement
        found.append((pairs.queries, pairs.products, np.nan_to_num(pairs.impressions)))
    if dataset.lists:
        pairs = dataset.lists.shown
        keys, counts = np.unique(np.stack([pairs.queries, pairs.products]), axis=1, return_counts=True)
        found.append((keys[0], keys[1], counts.astype(np.float64)))
    if not found:
        return None
    queries_P, products_P, counts_P = (np.concatenate(arrays) for arrays in zip(*found, strict=True))
    return queries_P, products_P, counts_P


def popularity(earlier: pl.DataFrame, product_ids: Sequence[str]) -> FloatArray | None:
    r"""The engagement rate of each product, over all queries of earlier splits, smoothed towards that of all.

    .. math:: (e + b g) / (n + b)

    with e the weight of its engaged pairs, n its impressions, g the rate of all products and b = `PRIOR`.

    Args:
        earlier: pairs of earlier splits (`product_id`, `label`, `weight`, null counting as 1, and `impressions`).
        product_ids: of the catalogue's N rows.

    Returns:
        float (N,); None where no impressions are known.
    """
    engaged = pl.when(pl.col("label") >= 1).then(pl.col("weight").fill_null(1.0)).otherwise(0.0)
    known = earlier.filter(pl.col("impressions").is_not_null())
    counted = known.group_by("product_id").agg(engaged=engaged.sum(), shown=pl.col("impressions").sum())
    total = int(counted["shown"].sum())
    if not total:
        return None
    rate = float(counted["engaged"].sum()) / total
    rows = pl.DataFrame({"product_id": product_ids}, schema={"product_id": pl.String})
    rows = rows.join(counted, on="product_id", how="left", maintain_order="left").fill_null(0)
    scores: FloatArray = ((rows["engaged"] + PRIOR * rate) / (rows["shown"] + PRIOR)).to_numpy()
    return scores
