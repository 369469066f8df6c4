"""Lists with clicks on them whose cause is known."""

from __future__ import annotations

import numpy as np

from mercato.ranking.dataset import RankingSet
from mercato.ranking.features import IDS, NAMES

COSINE, PRICE, CONTRADICTED = (NAMES.index(name) for name in ("cosine", "price_of_market", "numbers_contradicted"))
LISTS, SHOWN = 600, 8
PRODUCTS, QUERIES = 200, 150


def drawn(seed, examined=lambda position: 1.0, by_price=False, liked=lambda product: 0.0):
    """Lists, and what each product in them is worth (LISTS, SHOWN): its cosine less its price, and how it is liked.

    One that is worth it and looked at is clicked (1), and half of the clicks go a step further (2).
    """
    random = np.random.default_rng(seed)
    rows = np.full((LISTS, SHOWN, len(NAMES)), np.nan, np.float32)
    rows[..., COSINE] = random.random((LISTS, SHOWN))
    rows[..., PRICE] = random.random((LISTS, SHOWN))
    rows[..., CONTRADICTED] = random.random((LISTS, SHOWN)) < 0.2
    products = random.integers(1, PRODUCTS + 1, (LISTS, SHOWN))
    ids = np.zeros((LISTS, SHOWN, len(IDS)), np.uint64)
    ids[..., IDS.index("product_id")] = products
    ids[..., IDS.index("query")] = random.integers(1, QUERIES + 1, (LISTS, 1))
    worth = rows[..., COSINE] - rows[..., PRICE] + liked(products)
    shown_by = 0.4 * random.normal(size=(LISTS, SHOWN)) + by_price * rows[..., PRICE]
    positions = np.argsort(np.argsort(-shown_by, axis=1), axis=1) + 1
    looked = random.random((LISTS, SHOWN)) < examined(positions)
    clicked = (random.random((LISTS, SHOWN)) < 1 / (1 + np.exp(-6 * worth))) & looked
    grades = clicked * (1.0 + (random.random((LISTS, SHOWN)) < 0.5))
    lists = np.repeat(np.arange(LISTS), SHOWN)
    columns = (rows.reshape(-1, len(NAMES)), ids.reshape(-1, len(IDS)), grades.reshape(-1), positions.reshape(-1))
    return RankingSet(*columns, lists), worth


def agreement(scores_P, worth):
    """How often of two products of a list the one that is worth more scores higher."""
    scores = scores_P.reshape(LISTS, SHOWN)
    first, second = np.triu_indices(SHOWN, 1)
    same = (scores[:, first] > scores[:, second]) == (worth[:, first] > worth[:, second])
    return same.mean()
