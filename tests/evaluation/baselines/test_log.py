from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mercato.evaluation.baselines.log import PRIOR, popularity
from mercato.evaluation.baselines.price import cheapness
from mercato.evaluation.systems import PairScores, ProductScores


def test_popularity_is_the_engagement_rate_shrunk_to_that_of_all():
    rows = [("a", 1, 3.0, 10), ("a", 0, 7.0, 20), ("b", 1, None, 20), ("c", 0, 1.0, 50), ("d", 1, 9.0, None)]
    pairs = pl.DataFrame(rows, schema=["product_id", "label", "weight", "impressions"], orient="row")
    rate = 4 / 100  # what has no impressions has no rate
    expected = [(3 + PRIOR * rate) / (30 + PRIOR), (1 + PRIOR * rate) / (20 + PRIOR), PRIOR * rate / (50 + PRIOR), rate]
    assert popularity(pairs, ["a", "b", "c", "new"]) == pytest.approx(expected)
    assert popularity(pairs.with_columns(impressions=pl.lit(None, pl.Int64)), ["a"]) is None


def test_a_price_is_cheap_against_its_kind_where_it_is_asked():
    rows = [
        ("A > B", "USD", "us", 10.0), ("A > B", "USD", "us", 20.0), ("A > B", "USD", "us", 40.0),
        ("A > B", "EUR", "de", 5.0), ("A > C", "USD", "us", 99.0), ("A", "USD", "us", 1.0), (None, "USD", "us", 7.0),
        ("A > B", "USD", "us", None), ("A > B", "USD", "us", 0.0),
    ]  # fmt: skip
    products = pl.DataFrame(rows, schema=["category", "currency", "country", "price"], orient="row")
    assert cheapness(products) == pytest.approx([np.log(2), 0, -np.log(2), 0, 0, 0, 0, 0, 0])
    assert cheapness(products.with_columns(price=pl.lit(None, pl.Float64))) is None


def test_scores_of_pairs_are_those_given_and_of_products_whatever_the_query():
    scores = PairScores.of(np.array([0, 1, 1]), np.array([4, 2, 2]), np.array([3.0, 1.0, 2.0]), catalogue=5)
    assert scores.score(np.array([1, 0, 0, 1]), np.array([2, 4, 2, 4])).tolist() == [2, 3, 0, 0]
    assert ProductScores(np.array([5.0, 6.0])).score(np.array([9, 8]), np.array([1, 0])).tolist() == [6, 5]
