"""Query prediction on the six garments: every figure by hand, with a head that is made by hand."""

from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from rich.console import Console

from mercato.data.market import Market
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.predicted_queries import predicted_queries
from mercato.evaluation.metrics.registry import QUERY_PREDICTION
from mercato.evaluation.query_prediction import QueryPrediction
from mercato.evaluation.results import Metrics
from mercato.reports.details import collect_predictions
from mercato.reports.evaluate import summary
from mercato.reports.evaluation_page import write_report
from mercato.runs.query_head import QueryHead
from tests.support.garments import Words

NAMES = ["red dress", "red shirt", "red sofa", "blue dress", "blue shirt", "blue sofa"]


@pytest.fixture
def head(words: Words) -> QueryHead:
    """Each kind's name, and one of the two Spanish queries, spelled as somebody may have typed it."""
    queries = [*NAMES, "Camisa  AZUL"]
    return QueryHead(queries, 30 * words.encode_queries(queries), np.zeros(len(queries), np.float32))


@pytest.fixture
def evaluation(market: Market, words: Words) -> Evaluation:
    return Evaluation.of(words, market)


def test_precision_and_recall_by_definition():
    given = predicted_queries([["a", "b", "c", "d", "e", "f"], ["a"], []], [{"b", "f", "z", "y"}, {"a"}, {"a"}])
    expected = {
        "precision@1": [0, 1, 0],
        "precision@5": [1 / 5, 1 / 5, 0],
        "precision@10": [2 / 10, 1 / 10, 0],
        "recall@10": [2 / 4, 1, 0],
    }
    assert {metric.name: metric.compute(given).tolist() for metric in QUERY_PREDICTION} == expected


def test_the_figures_of_a_head_made_by_hand(evaluation: Evaluation, head: QueryHead):
    metrics = evaluation.metrics()
    prediction = QueryPrediction.of(head, evaluation)
    assert prediction is not None
    measured = prediction.add_to(metrics)
    metrics = measured.as_dict()
    assert Metrics.from_dict(metrics) == measured
    # Of the future's 12 garments (2 of each name) the red dresses and blue shirts were found by two queries each; the
    # head does not know the dresses' Spanish one.
    assert metrics["understanding"] == pytest.approx(
        {"precision@1": 1, "precision@5": 7 / 30, "precision@10": 7 / 60, "recall@10": 5.5 / 6}
    )
    lexical, popular = (metrics["baselines"][name]["understanding"] for name in ("bm25", "popular"))
    assert lexical == pytest.approx({"precision@1": 1, "precision@5": 0.2, "precision@10": 0.1, "recall@10": 5 / 6})
    # All eight queries are equally popular, so they stand in the order of the alphabet: blue dress first.
    assert popular == pytest.approx(
        {"precision@1": 1 / 6, "precision@5": 1 / 6, "precision@10": 8 / 60, "recall@10": 1}
    )
    counts = {"products": 12, "queries": 8, "pairs": 16, "head_queries": 7}
    assert metrics["n"]["understanding"] == counts
    low, high = metrics["intervals"]["baselines"]["popular"]["understanding"]["precision@1"]
    assert 0 <= low < 1 / 6 < high < 0.6
    low, high = metrics["intervals"]["differences"]["popular"]["understanding"]["precision@1"]
    assert 0.4 < low < high <= 1
    assert json.loads(json.dumps(metrics)) == metrics


def test_a_head_that_mistakes_colours_is_wrong(evaluation: Evaluation, head: QueryHead):
    swapped = QueryHead(head.queries, np.roll(head.weight_YD, 3, axis=0), head.bias_Y)
    metrics = evaluation.metrics()
    metrics = QueryPrediction.of(swapped, evaluation).add_to(metrics).as_dict()
    assert metrics["understanding"]["precision@1"] == 0


def test_popular_is_what_the_training_days_asked_most(market: Market, words: Words, head: QueryHead):
    more = [
        {"query": "Red  SOFA", "country": None, "product_id": f"p{n}", "label": 1, "split": "train"} for n in (0, 4)
    ]
    abroad = [  # one product in many countries is one product
        {"query": "teal", "country": c, "product_id": p, "label": 1, "split": "train"}
        for c in ("us", "mx", "es", "de", "fr")
        for p in ("p0", "p2")
    ]
    later = [
        {"query": "green", "country": None, "product_id": f"p{n}", "label": 1, "split": "future"} for n in range(9)
    ]
    left = [{"query": "grey", "country": None, "product_id": f"p{n}", "label": 0, "split": "train"} for n in range(9)]
    pairs = pl.concat(
        [
            market.frame("pairs").select(more[0].keys()),
            pl.DataFrame([*abroad, *more, *later, *left], infer_schema_length=None),
        ],
        how="vertical_relaxed",
    )
    prediction = QueryPrediction.of(head, Evaluation.of(words, market, pairs=pairs), pairs)
    assert prediction.predicted["popular"][0][:2] == ["red sofa", "blue dress"]


def test_products_that_nobody_engaged_with_before_are_told_apart(
    evaluation: Evaluation, market: Market, words: Words, head: QueryHead
):
    metrics = evaluation.metrics()
    metrics = QueryPrediction.of(head, evaluation).add_to(metrics).as_dict()
    assert "understanding_new" not in metrics  # all of them are new: it would say the same twice
    # The odd blue sofas p21 and p23 are known by a query of an earlier day; of the others nothing was engaged with.
    earlier = [("blue", "p21", 1, "train"), ("blue", "p23", 1, "validation"), ("blue", "p1", 0, "train")]
    rows = [{"query": q, "country": None, "product_id": p, "label": n, "split": s} for q, p, n, s in earlier]
    table = market.frame("pairs").select(rows[0].keys())
    pairs = pl.concat([table, pl.DataFrame(rows)], how="vertical_relaxed")
    metrics = (changed := Evaluation.of(words, market, pairs=pairs)).metrics()
    metrics = QueryPrediction.of(head, changed, pairs).add_to(metrics).as_dict()
    assert metrics["n"]["understanding_new"] | {"queries": 7, "pairs": 14} == metrics["n"]["understanding_new"]
    assert metrics["n"]["understanding_new"]["products"] == 10
    assert metrics["understanding_new"]["recall@10"] == pytest.approx(4.5 / 5)  # without the sofas, all of them right


def test_without_a_future_there_is_nothing_to_hold_it_to(market: Market, words: Words, head: QueryHead):
    (market.path / "pairs.parquet").unlink()
    assert QueryPrediction.of(head, Evaluation.of(words, market)) is None


def test_report_and_summary_show_it_and_a_run_without_a_head_does_not(
    evaluation: Evaluation, head: QueryHead, tmp_path
):
    metrics = evaluation.metrics()
    write_report(metrics, tmp_path / "report.html", title="Headless")
    assert "searched as" not in (tmp_path / "report.html").read_text()
    assert "predicted queries" not in _printed(summary(metrics))

    prediction = QueryPrediction.of(head, evaluation)
    metrics = prediction.add_to(metrics)
    examples = collect_predictions(prediction, drawn=12)
    assert examples == collect_predictions(prediction, drawn=12)
    shirt = next(example for example in examples if example.tile.title == "blue shirt")
    assert shirt.searched == ["blue shirt", "camisa azul"]
    assert [(query, came) for query, _, came in shirt.predicted[:2]] == [("blue shirt", True), ("Camisa  AZUL", True)]
    assert not any(came for _, _, came in shirt.predicted[2:])
    write_report(metrics, tmp_path / "report.html", title="Headed", predicted=examples)
    page = (tmp_path / "report.html").read_text()
    assert "What products are searched as" in page and "Camisa  AZUL" in page and "Most popular" in page
    assert "url(data:image/jpeg;base64," in page
    printed = _printed(summary(metrics))
    assert "predicted queries" in printed and "12 products" in printed and ".233" in printed


def _printed(renderable) -> str:
    console = Console(width=200)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()
