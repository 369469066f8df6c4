"""Features logged with answers: what a ranker saw of the hits that a page showed, for later training."""

from __future__ import annotations

from typing import Any

import numpy as np

from mercato.ranking.features import NAMES, UNLOGGED
from mercato.search.pipeline import Page

_LEFT_OUT = np.array([name in UNLOGGED for name in NAMES])


def feature_rows(page: Page) -> list[dict[str, Any]]:
    """A page's hits as rows of the market's table `features`; none where the search is not logged or nothing ranked.

    Age and distance are left out: with the listings' own times and places, those of a dozen hits would tell when and
    where the search was made.
    """
    return [
        {
            "query_id": page.query_id,
            "product_id": hit.product["product_id"],
            "position": hit.position,
            "features": np.where(_LEFT_OUT, np.float32(np.nan), hit.features_F),
            "features_version": page.features_version,
            "ranked_by": page.ranked_by,
            "rank_score": hit.rank_score,
        }
        for hit in page.hits
        if hit.features_F is not None
    ]
