"""The classification head from training to its use: learned, saved, served, evaluated."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mercato.data.market import Market
from mercato.reports.evaluate import evaluate_run
from mercato.runs.onnx_encoder import OnnxEncoder
from mercato.runs.torch_encoder import TorchEncoder
from mercato.training.train import train
from tests.support.toys import KINDS, make_market, pairs, products, toy_recipe


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Market, Path]:
    """The toy market, its last six products (one of each kind) engaged with in the future only; a run with a head.

    It has nothing to validate on, so that the last epoch is kept, whenever the towers were at their best.
    """
    goods, folder = products(), tmp_path_factory.mktemp("headed")
    last = {product["product_id"] for product in goods[-6:]}
    links = [
        row | {"split": "future" if row["product_id"] in last else "train"} for row in pairs(goods) if row["label"]
    ]
    market = make_market(folder / "market", goods, links)
    train(
        toy_recipe("head.queries=5", "stages.0.epochs=40"),
        market,
        folder / "run",
    )
    return market, folder / "run"


def test_a_new_product_is_known_by_another_languages_word(trained):
    _, run = trained
    known = json.loads((run / "queries.json").read_text())
    assert len(known) == 5 and set(known) < set(KINDS)
    new = [{"title": f"{KINDS[word]} number 99", "description": f"a good {KINDS[word]}"} for word in known]
    for model in (TorchEncoder.load(run), OnnxEncoder(run)):
        likely = model.predict_queries(new, 2)
        assert [first for (first, _), _ in likely] == known
        assert all(probability > 0.5 for (_, probability), _ in likely)


def test_evaluation_holds_the_head_to_the_future(trained):
    market, run = trained
    metrics = evaluate_run(run, market).as_dict()
    # Of one kind the head does not know the query, so 5 of 6 can be right.
    assert metrics["n"]["understanding"] == {"products": 6, "queries": 6, "pairs": 6, "head_queries": 5}
    assert metrics["understanding"]["precision@1"] == pytest.approx(5 / 6)
    assert metrics["baselines"]["bm25"]["understanding"]["precision@1"] == 0  # no title shares a word with its query
    assert metrics["baselines"]["popular"]["understanding"]["precision@1"] == pytest.approx(1 / 6)
    assert json.loads((run / "metrics.json").read_text()) == metrics
    assert "What products are searched as" in (run / "report.html").read_text()
