"""Which pairs early stopping goes by, and the threshold that they give."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest

from mercato.data.market import Market
from mercato.training.data.prepare import prepare
from mercato.training.data.validation import PairValidation
from tests.support.labelled_pairs import word_tables, word_towers
from tests.support.toys import make_market, pairs, products, toy_recipe

HELD = sorted((int(row["product_id"][1:]), row["label"]) for row in pairs(products()) if row["split"] == "validation")
MULTITASK = ("stages.0.engagement_weight=0.2", "stages.0.unengaged=1")


def products_and_labels(validation: PairValidation | None) -> list[tuple[int, int]]:
    assert validation is not None
    return sorted(zip(validation.product_N.tolist(), validation.label_N.tolist(), strict=True))


def judged(market: Market, *rows: tuple[str, str, float, str | None]) -> Market:
    columns = ["query", "product_id", "grade", "split"]
    judgments = pl.DataFrame(rows, columns, orient="row").with_columns(country=pl.lit("us"))
    judgments.write_parquet(market.path / "judgments.parquet")
    return Market.open(market.path)


def test_early_stopping_never_sees_the_test_judgments(tmp_path):
    """They say the opposite of the validation judgments here; one has no split, which is test too."""
    market = judged(
        make_market(tmp_path / "market"),
        ("mesa", "p0", 1.0, "validation"), ("mesa", "p1", 0.0, "validation"),
        ("mesa", "p9", float("nan"), "validation"),
        ("mesa", "p0", 0.0, "test"), ("mesa", "p1", 1.0, "test"), ("mesa", "p2", 1.0, None),
    )  # fmt: skip
    assert products_and_labels(prepare(market, toy_recipe(), tmp_path).validation) == [(0, 1), (1, 0)]


def test_without_validation_judgments_the_pairs_validate(tmp_path):
    market = judged(make_market(tmp_path / "market"), ("mesa", "p0", 1.0, "test"), ("mesa", "p1", 0.0, "test"))
    assert products_and_labels(prepare(market, toy_recipe(), tmp_path).validation) == HELD


def test_engagement_validates_on_the_days_after_training_alone(tmp_path):
    """Neither the training days nor the future."""
    links = pairs(products()) + [
        {"query": "mesa", "country": "us", "product_id": f"p{number}", "label": number % 2, "split": split}
        for number, split in ((1, "train"), (2, "train"), (4, "future"), (5, "future"))
    ]
    market = make_market(tmp_path / "market", links=links)
    market = judged(market, ("mesa", "p0", 1.0, "validation"), ("mesa", "p1", 0.0, "validation"))
    validation = prepare(market, toy_recipe(*MULTITASK), tmp_path).validation
    assert products_and_labels(validation) == [(0, 1), (1, 0)]
    assert products_and_labels(validation.engagement) == HELD


def test_retrieval_starts_at_what_all_but_one_in_twenty_relevant_pairs_reach():
    """Of 21 relevant pairs the second lowest, whatever lies below or above them that is not relevant."""
    tables, towers = word_tables(), word_towers()
    query_N, product_N = (places.ravel() for places in np.divmod(np.arange(25), 5))
    every = PairValidation(tables=tables, query_N=query_N, product_N=product_N, label_N=np.ones(25, np.int64))
    cosine_N = every.cosines(towers)
    for irrelevant in (np.argsort(cosine_N)[:4], np.argsort(cosine_N)[-4:]):
        label_N = np.ones(25, np.int64)
        label_N[irrelevant] = 0
        validation = PairValidation(tables=tables, query_N=query_N, product_N=product_N, label_N=label_N)
        assert validation.min_cosine(towers) == pytest.approx(np.sort(cosine_N[label_N == 1])[1], abs=1e-6)
