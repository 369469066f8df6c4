from __future__ import annotations

import re
from dataclasses import replace
from itertools import pairwise

import pytest
from rich.console import Console

from mercato.evaluation.baselines.registry import BASELINES
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.registry import SEARCH_PARTS
from mercato.evaluation.results import Figure, Tuning
from mercato.reports.details import collect_details, collect_examples
from mercato.reports.evaluate import summary
from mercato.reports.evaluation_page import write_report
from mercato.reports.headlines import metric_meaning
from tests.support.garments import Constant
from tests.support.html import Balanced


def _read(path) -> tuple[str, str, Balanced]:
    page = path.read_text()
    parsed = Balanced()
    parsed.feed(page)
    assert parsed.open == []
    return page, " ".join(parsed.text), parsed


@pytest.fixture
def evaluation(market, words):
    return Evaluation.of(words, market, others={"constant": Constant()})


def test_the_report_is_one_file_that_says_what_was_measured(evaluation, tmp_path):
    metrics, path = evaluation.metrics(), tmp_path / "run" / "report.html"
    history = [
        {"stage": 1, "epoch": 0, "validation/roc_auc": 0.5},
        {"stage": 1, "epoch": 1, "loss": 3.2, "losses": {"head": 0.5}, "validation/roc_auc": 0.6, "seconds": 61.0},
        {"stage": 2, "epoch": 0, "validation/roc_auc": 0.6},
        {"stage": 2, "epoch": 1, "loss": 40.0, "validation/roc_auc": 0.7, "seconds": 60.0},
    ]
    write_report(
        metrics,
        path,
        title="Six <garments> & more",
        recipe_text="scale = 20",
        history=history,
        details=collect_details(evaluation),
        examples=collect_examples(evaluation),
    )
    page, text, parsed = _read(path)
    assert not parsed.links
    assert not re.search(r"https?://|@import|<script", page)
    assert "url(data:image/jpeg;base64," in page
    for expected in (
        "Six <garments> & more",
        "100%",
        "vestido rojo",
        "constant",
        "nothing found",
        "2.0 minutes",
        "scale = 20",
    ):
        assert expected in text, expected
    assert evaluation.market.fingerprint() in text
    assert "1.000" in text
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page


def test_relevance_per_query_and_engagement_free_of_exposure_come_first(evaluation, tmp_path):
    write_report(evaluation.metrics(), tmp_path / "report.html", title="Both")
    page, text, _ = _read(tmp_path / "report.html")
    lead = text[: text.index("Against the baselines")]
    assert re.search(r"for the same query, a relevant one .* higher\s+\d+%\s+\(BM25F \d+%\) of the time", lead)
    titles = ("Relevance ROC AUC, per query", "Relevance nDCG@10", "Catalogue recall@10")
    places = [lead.index(title) for title in titles]
    assert places == sorted(places)
    assert "By 95 % intervals that hold all together" in lead and "not told apart" in lead
    assert 'class="delta better"' in page


def test_every_metric_and_baseline_says_what_it_means(evaluation, tmp_path):
    metrics = evaluation.metrics()
    write_report(metrics, tmp_path / "report.html", title="Meanings")
    text = _read(tmp_path / "report.html")[1]
    for part in set(metrics.ours) & set(SEARCH_PARTS):
        for metric in metrics.ours[part]:
            assert text.count(metric_meaning(part, metric)) == 1
    assert {name for name in metrics.baselines if name in BASELINES} >= {"bm25f", "bm25", "random"}
    for name in metrics.baselines:
        if name in BASELINES:
            assert text.count(BASELINES[name].meaning) == 1
    n = metrics.n.parts["relevance"]
    assert f"{n.queries} queries" in text and "queries in normal form" in text


def test_counts_say_their_units_and_a_tuned_baseline_on_what(evaluation, tmp_path):
    metrics = evaluation.metrics()
    parts = {**metrics.n.parts, "relevance": replace(metrics.n.parts["relevance"], units=3)}
    tuning = Tuning(queries=7, pairs=80, split="validation", untuned_ndcg=0.5, tuned_ndcg=0.625, weights={}, b={})
    changed = replace(metrics, n=replace(metrics.n, unit="intent", parts=parts), tuned={"bm25f": tuning})
    write_report(changed, tmp_path / "report.html", title="Counts")
    text = _read(tmp_path / "report.html")[1]
    assert "of 3 intents" in text and "resamples of whole intents" in text
    assert (
        "BM25F tuned on" in text and "80 pairs of the validation split: nDCG@10 there .500 before, .625 after" in text
    )


@pytest.mark.parametrize("both", [True, False])
def test_a_curve_of_two_tasks_says_that_it_is_their_mean(evaluation, tmp_path, both):
    tasks = {"validation/relevance": 0.7, "validation/engagement": 0.5} if both else {}
    history = [{"stage": 1, "epoch": epoch, "validation/roc_auc": 0.6, **tasks} for epoch in (0, 1)]
    write_report(evaluation.metrics(), tmp_path / "report.html", title="Two tasks", history=history)
    assert ("the mean of relevance and engagement" in _read(tmp_path / "report.html")[1]) == both


def test_a_report_of_figures_alone_leaves_the_rest_out(market, words, tmp_path):
    (market.path / "pairs.parquet").unlink()
    evaluation = Evaluation.of(words, market)
    write_report(evaluation.metrics(), tmp_path / "report.html", title="Judged only")
    _, text, _ = _read(tmp_path / "report.html")
    assert "scores the relevant one higher" in text and "engaged" not in text[: text.index("Against the baselines")]
    for absent in ("Training", "Results to look at", "Where it does worst", "ROC curves", "Recipe"):
        assert absent not in text


def test_details_follow_the_tables_that_there_are(market, words):
    (market.path / "judgments.parquet").unlink()
    details = collect_details(Evaluation.of(words, market))
    assert details.worst_metric == "recall@100"
    assert details.pairs_name.startswith("engaged")
    assert details.curves["mercato"][0] == (0.0, 0.0)
    assert details.curves["mercato"][-1] == pytest.approx((1.0, 1.0))
    assert details.market_info["products"] == "24 rows"


def test_curves_hold_the_area_that_the_metric_says(evaluation):
    curves, metrics = collect_details(evaluation).curves, evaluation.metrics()
    for name in ("bm25", "random", "constant"):
        points = curves[name]
        area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise(points))
        assert area == pytest.approx(metrics.baselines[name]["relevance"]["roc_auc"].value, abs=0.01)


def test_examples_are_drawn_by_the_seed_and_carry_verdicts_and_images(evaluation):
    examples = collect_examples(evaluation, drawn=8, depth=4)
    assert examples == collect_examples(evaluation, drawn=8, depth=4)
    assert len(examples) == 8
    spanish = next(example for example in examples if example.query == "vestido rojo")
    assert spanish.lexical == []
    assert [result.title for result in spanish.ours] == ["red dress"] * 4
    assert all(result.verdict for result in spanish.ours)
    assert {bool(result.image) for result in spanish.ours} == {True, False}
    assert spanish.ours[0].price == "9.50 USD"


def test_the_terminal_has_what_searches_what_the_log_says_alone_and_who_is_beaten(evaluation):
    metrics = evaluation.metrics()
    engagement = {name: Figure(0.5, (0.4, 0.6)) for name in metrics.ours["engagement"]}
    spans = {"engagement": dict.fromkeys(engagement, (0.1, 0.2))}
    shown = replace(
        metrics,
        baselines=metrics.baselines | {"impressions": {"engagement": engagement}},
        differences=metrics.differences | {"impressions": spans},
    )
    console = Console(width=140)
    with console.capture() as capture:
        console.print(summary(shown, "ours"))
    told = " ".join(capture.get().split())
    first, second = told.index("bm25f"), told.index("impressions")
    assert first < told.index("relevance ROC AUC, per query") < told.index("relevance nDCG@10") < second
    assert second < told.rindex("engagement ROC AUC") and "relevance" not in told[second : told.rindex("seed 0")]
    assert "intervals over queries in normal form" in told
    assert "the model" not in told and "ours is " in told and "ahead of Impressions on every headline metric" in told


def test_pretraining_is_told_by_task(evaluation, tmp_path):
    history = [
        {
            "epoch": epoch,
            "validation/loss": 3.0 - epoch,
            "seconds": 10,
            "vectors/mean_cosine": 0.25,
            "vectors/rank": 41.2,
            "mlm/weight": 0.5,
            "mlm/loss": 4.0 - epoch,
            "mlm/trivial": 6.0,
            "mlm/accuracy": 0.25 * epoch,
        }
        for epoch in (0, 1, 2)
    ]
    write_report(evaluation.metrics(), tmp_path / "report.html", title="Pretrained", pretraining=history)
    page = (tmp_path / "report.html").read_text()
    assert "<td>masked words</td><td>0.5</td><td>2.000</td><td>6.000</td><td>50%</td>" in page
    assert "2 epochs in 30 s" in page and "epoch 2 was kept" in page and "fill 41 dimensions" in page
    assert "query–image matching" not in page  # which was not learned
