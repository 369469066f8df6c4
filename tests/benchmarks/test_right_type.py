"""Which pairs are of the right type by the truth, and that the figure is of these alone."""

from __future__ import annotations

import json
import sys

import numpy as np
import polars as pl
import pytest

from mercato.data.normalize import normalize
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EvaluationSet
from tests.support.scripts import script
from tests.support.toys import make_market


@pytest.fixture(scope="module")
def right_type():
    with script("right_type") as module:
        yield module


def test_only_pairs_of_the_type_asked_for_are_compared(right_type, tiny_market):
    dataset = EvaluationSet.read(tiny_market, "test", lists=False)
    pairs = dataset.engagement
    right_P = right_type.of_the_right_type(tiny_market, dataset, pairs)
    asked = pl.read_parquet(tiny_market.path / "truth/queries.parquet").rows(named=True)
    wanted = {(normalize(row["query"]), row["country"]): row["type"] for row in asked}
    are = dict(pl.read_parquet(tiny_market.path / "truth/products.parquet").select("product_id", "types").iter_rows())
    queries = [(normalize(query), country) for query, country in dataset.queries.rows()]
    expected = [
        wanted[queries[query]] in are[dataset.product_ids[product]]
        for query, product in zip(pairs.queries, pairs.products, strict=True)
    ]
    assert right_P.tolist() == expected and 0 < sum(expected) < len(expected)

    engaged_P = (pairs.grades >= 1).astype(float)
    best, worst = np.where(right_P, engaged_P, -9 * engaged_P), np.where(right_P, -engaged_P, 9 * engaged_P)
    values = [right_type.measured(pairs, right_P, scores[None], dataset).value for scores in (best, worst)]
    assert values == [1, 0], "however wrong the others' order"
    assert right_type.measured(pairs, right_P, np.stack([best, worst]), dataset).value == 0.5, "the mean over seeds"


def test_a_table_of_runs_and_of_what_else_may_be_behind_an_engagement(
    right_type, tiny_market, tiny_run, tmp_path, monkeypatch, capsys
):
    runs = ["--runs", f"ours={tiny_run}", f"twice={tiny_run},{tiny_run}"]
    monkeypatch.setattr(
        sys, "argv", ["right_type.py", "--market", str(tiny_market.path), *runs, "--out", str(tmp_path)]
    )
    right_type.main()
    rows = json.loads((tmp_path / "right_type.json").read_text())["rows"]
    assert list(rows) == [
        "impressions", "the price is fair, by the truth", "price against its kind", "ours", "twice",
    ]  # fmt: skip
    assert rows["twice"]["value"] == rows["ours"]["value"] and rows["twice"]["ahead"] == 0
    assert rows["impressions"]["ahead"] == pytest.approx(rows["ours"]["value"] - rows["impressions"]["value"])
    assert (tmp_path / "right_type.md").read_text() in capsys.readouterr().out


def test_a_market_without_truth_is_refused(right_type, tmp_path, monkeypatch):
    market = make_market(tmp_path / "market")
    arguments = ["right_type.py", "--market", str(market.path), "--runs", "a=b", "--out", str(tmp_path)]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(MercatoError, match="no truth"):
        right_type.main()
