"""Cheapness against its kind: how much of engagement is the price."""

from __future__ import annotations

import numpy as np
import polars as pl

from mercato.evaluation.kinds import leaf_categories
from mercato.evaluation.metrics.arrays import FloatArray


def cheapness(products: pl.DataFrame) -> FloatArray | None:
    r"""Minus the logarithm of the price over the median of its leaf category, currency and country: float (N,).

    A product without a price or kind gets 0, the middle; None where all do.

    Args:
        products: `category`, `currency`, `country` and `price`.
    """
    kinds = pl.Series("kind", leaf_categories(products["category"].to_list()))
    table = products.with_columns(kinds, price=pl.when(pl.col("price") > 0).then(pl.col("price")))
    median = pl.col("price").median().over("kind", "currency", "country")
    scores = -(pl.col("price") / median).log()
    found = table.select(pl.when(pl.col("kind") >= 0).then(scores)).to_series()
    if found.null_count() == len(found):
        return None
    cheap_N: FloatArray = np.asarray(found.fill_null(0.0).to_numpy(), dtype=np.float64)
    return cheap_N
