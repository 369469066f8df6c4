"""`mercato evaluate`: a run on a market, as `metrics.json` and `report.html` in the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import polars as pl
from rich.console import Group, RenderableType
from rich.markup import escape
from rich.table import Table

from mercato.data.market import Market
from mercato.data.pairs import held_out_pairs
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.registry import LOG_PARTS, PREDICTION_PARTS
from mercato.evaluation.query_prediction import BASELINES, NEW, PART, QueryPrediction
from mercato.evaluation.results import OURS, Figure, Metrics
from mercato.evaluation.systems import System
from mercato.files import write_atomic
from mercato.reports.charts import decimal
from mercato.reports.details import collect_details, collect_examples, collect_predictions
from mercato.reports.evaluation_page import UNITS, write_report
from mercato.reports.headlines import HEADLINES, Headline
from mercato.reports.verdicts import beaten, scoring, searching
from mercato.runs.encoder import Encoder
from mercato.runs.folder import PRETRAINING, read_history
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder, load

METRICS, REPORT = "metrics.json", "report.html"


def evaluate_run(run: Path, market: Market, others: Mapping[str, Encoder] | None = None) -> Metrics:
    """Every metric that the market's tables allow; where it has no pairs, the held-out pairs of the run's recipe.

    `others` are more encoders to compare with, by name. Writes `metrics.json` and `report.html` into the run.
    """
    return evaluate_runs([run], market, others)[0]


def evaluate_runs(runs: Sequence[Path], market: Market, others: Mapping[str, Encoder] | None = None) -> list[Metrics]:
    """As `evaluate_run`, of runs in folders of different names: each has the rest beside it, by these names.

    All are measured on the same pairs, and nothing is encoded twice. Where the market has none, these are the held-out
    pairs of the first run's recipe.
    """
    models = [load(run, market.path) for run in runs]
    pairs, dropped = held_out_pairs(market, models[0].recipe.pairs)
    evaluations = [
        Evaluation.of(
            model,
            market,
            pairs=pairs,
            dropped=dropped,
            products=products_with_vectors(market, model, run),  # by the run's own image encoder
            others=None if number else others,
            baselines=not number,
        )
        for number, (run, model) in enumerate(zip(runs, models, strict=True))
    ]
    shared = {name: system for name, system in evaluations[0].systems.items() if name != OURS}
    results = []
    for run, model in zip(runs, models, strict=True):
        evaluation = _side_by_side(runs, evaluations, run, shared)
        results.append(_write_figures(run, model, evaluation, pairs, dropped))
    return results


def compare_runs(runs: Sequence[Path], market: Market) -> Metrics:
    """The first run's metrics on the validation split, the others among its baselines: what a choice may rest on."""
    evaluations = []
    for run in runs:
        model = load(run, market.path)
        products = products_with_vectors(market, model, run)
        evaluations.append(Evaluation.of(model, market, split="validation", products=products, baselines=False))
    return _side_by_side(runs, evaluations, runs[0]).metrics()


def _side_by_side(
    runs: Sequence[Path], evaluations: Sequence[Evaluation], ours: Path, shared: Mapping[str, System] | None = None
) -> Evaluation:
    """One run's evaluation, with the rest beside it by the names of their folders."""
    own = {run.name: evaluation.systems[OURS] for run, evaluation in zip(runs, evaluations, strict=True)}
    first = own.pop(ours.name)
    return replace(evaluations[0], systems={OURS: first, **own, **(shared or {})})


def _write_figures(
    run: Path, model: TorchEncoder, evaluation: Evaluation, pairs: pl.DataFrame | None, dropped: Sequence[str]
) -> Metrics:
    metrics = evaluation.metrics()
    head = model.query_head
    prediction = QueryPrediction.of(head, evaluation, pairs, "title" not in dropped) if head else None
    if prediction:
        metrics = prediction.add_to(metrics)
    write_atomic(run / METRICS, json.dumps(metrics.as_dict(), indent=2) + "\n")
    write_report(
        metrics,
        run / REPORT,
        title=f"{model.recipe.name} on {evaluation.market.config.name}",
        recipe_text=model.recipe.toml(),
        history=read_history(run),
        pretraining=read_history(run / PRETRAINING),
        details=collect_details(evaluation),
        examples=collect_examples(evaluation),
        predicted=collect_predictions(prediction) if prediction else (),
    )
    return metrics


def summary(metrics: Metrics, ours: str = OURS) -> Group:
    """Ours, by that name, beside what searches and what the log says alone, with 95 % intervals and who is beaten."""
    parts: list[RenderableType] = [_figures(metrics, ours, searching(metrics), HEADLINES)]
    if alone := scoring(metrics):
        parts.append(_figures(metrics, ours, alone, [each for each in HEADLINES if each.part in LOG_PARTS]))
    if PART in metrics.ours:
        parts.append(_of_products(metrics, ours))
    if said := beaten(metrics):
        parts.append(escape(said.replace("the model", ours, 1)))
    return Group(*parts)


def _figures(metrics: Metrics, ours: str, baselines: Sequence[str], headlines: Sequence[Headline]) -> Table:
    grid = Table("", *map(escape, (ours, *baselines)))
    for headline in headlines:
        found = [headline.of(metrics.of(system)) for system in (OURS, *baselines)]
        if any(found):
            grid.add_row(headline.label, *map(_cell, found))
    n = metrics.n
    shown = [part for part in dict.fromkeys(each.part for each in headlines) if part in n.parts]
    counted = [f"{part} {n.parts[part].queries:,} queries" for part in shown]
    grid.caption = f"95 % bootstrap intervals over {UNITS[n.unit]}; {', '.join(counted)}; seed {n.seed}"
    return grid


def _of_products(metrics: Metrics, ours: str) -> Table:
    grid = Table("predicted queries", escape(ours), *BASELINES)
    for part in PREDICTION_PARTS:
        for metric in metrics.ours.get(part, {}):
            figures = (metrics.of(system)[part][metric] for system in (OURS, *BASELINES))
            grid.add_row(Headline.of_metric(part, metric).label, *map(_cell, figures))
    counts = metrics.n.parts
    fresh = f", of them {counts[NEW].products:,} new" if NEW in counts else ""
    grid.caption = f"95 % bootstrap intervals over {counts[PART].products:,} products engaged with in the future{fresh}"
    return grid


def _cell(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    span = figure.interval
    return decimal(figure.value) + (f"\n[{decimal(span[0])}, {decimal(span[1])}]" if span else "")
