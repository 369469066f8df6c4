"""`mercato evaluate`: a run on a market, as `metrics.json` and `report.html` in the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from mercato.data.market import Market
from mercato.data.pairs import held_out_pairs
from mercato.evaluation.details import collect_details, collect_examples
from mercato.evaluation.evaluate import OURS, Evaluation
from mercato.evaluation.query_prediction import BASELINES, NEW, PART, PARTS, Understanding
from mercato.evaluation.systems import System
from mercato.files import write_atomic
from mercato.reports.charts import decimal
from mercato.reports.evaluation_page import write_report
from mercato.runs.encoder import Encoder
from mercato.runs.folder import read_history
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder, load

HEADLINES = (  # both tasks first, side by side
    ("relevance", "roc_auc", "relevance ROC AUC"),
    ("engagement", "roc_auc", "engagement ROC AUC"),
    ("relevance", "roc_auc_per_query", "relevance ROC AUC, per query"),
    ("engagement", "roc_auc_per_query", "engagement ROC AUC, per query"),
    ("relevance", "ndcg@10", "relevance nDCG@10"),
    ("knn", "recall@10", "KNN recall@10"),
    ("knn", "recall@100", "KNN recall@100"),
    ("unseen", "recall@10", "KNN recall@10, pairs new to the log"),
    ("batch", "recall@1", "batch recall@1"),
)
METRICS, REPORT = "metrics.json", "report.html"


def evaluate_run(run: Path, market: Market, others: Mapping[str, Encoder] | None = None) -> dict[str, Any]:
    """Every metric that the market's tables allow; where it has no pairs, the held-out pairs of the run's recipe.

    `others` are more encoders to compare with, by name. Writes `metrics.json` and `report.html` into the run.
    """
    return evaluate_runs([run], market, others)[0]


def evaluate_runs(
    runs: Sequence[Path], market: Market, others: Mapping[str, Encoder] | None = None
) -> list[dict[str, Any]]:
    """As `evaluate_run`, of runs in folders of different names: each has the rest beside it, by these names.

    All are asked the same questions, and nothing is encoded twice. Where the market has no pairs, the first run's
    recipe says what is asked.
    """
    models = [load(run, market.path) for run in runs]
    pairs, withhold = held_out_pairs(market, models[0].recipe.pairs)
    evaluations = [
        Evaluation.of(
            model,
            market,
            pairs=pairs,
            withhold=withhold,
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
        results.append(_write_figures(run, model, evaluation, pairs, withhold))
    return results


def compare_runs(runs: Sequence[Path], market: Market) -> dict[str, Any]:
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
    run: Path, model: TorchEncoder, evaluation: Evaluation, pairs: pl.DataFrame | None, withhold: Sequence[str]
) -> dict[str, Any]:
    metrics = evaluation.metrics()
    head = model.query_head
    understanding = Understanding.of(head, evaluation, pairs, "title" not in withhold) if head else None
    if understanding:
        understanding.add_to(metrics)
    write_atomic(run / METRICS, json.dumps(metrics, indent=2) + "\n")
    write_report(
        metrics,
        run / REPORT,
        title=f"{model.recipe.name} on {evaluation.market.config.name}",
        recipe_text=model.recipe.toml(),
        history=read_history(run),
        details=collect_details(evaluation),
        examples=collect_examples(evaluation),
        understood=understanding.examples() if understanding else (),
    )
    return metrics


def summary(metrics: Mapping[str, Any], ours: str = OURS) -> Group:
    """Ours, by that name, beside BM25, random and whatever else was measured, with 95 % intervals."""
    return Group(_of_search(metrics, ours), *([_of_products(metrics, ours)] if PART in metrics else []))


def _of_search(metrics: Mapping[str, Any], ours: str) -> Table:
    systems = {
        ours: metrics,
        **{name: tree for name, tree in metrics["baselines"].items() if not {*tree} <= {*PARTS}},
    }
    grid = Table("", *map(escape, systems))
    for part, metric, label in HEADLINES:
        cells = []
        for name, values in systems.items():
            intervals = metrics["intervals"] if name == ours else metrics["intervals"]["baselines"][name]
            cells.append(_figure(values.get(part, {}).get(metric), intervals.get(part, {}).get(metric)))
        if any(cell != "–" for cell in cells):
            grid.add_row(label, *cells)
    counts = metrics["n"]
    parts = [
        f"{part} {counts[part]['queries']:,} queries"
        for part in ("relevance", "engagement", "knn", "unseen")
        if part in counts
    ]
    grid.caption = f"95 % bootstrap intervals over queries; {', '.join(parts)}; seed {counts['seed']}"
    return grid


def _of_products(metrics: Mapping[str, Any], ours: str) -> Table:
    trees, spans = metrics["baselines"], metrics["intervals"]
    systems = [(metrics, spans), *((trees[name], spans["baselines"][name]) for name in BASELINES)]
    grid = Table("predicted queries", escape(ours), *BASELINES)
    for part, named in PARTS.items():
        for metric in metrics.get(part, {}):
            figures = (_figure(values[part][metric], span[part][metric]) for values, span in systems)
            grid.add_row(f"{metric}{named}", *figures)
    counts = metrics["n"]
    fresh = f", of them {counts[NEW]['products']:,} new" if NEW in counts else ""
    grid.caption = (
        f"95 % bootstrap intervals over {counts[PART]['products']:,} products engaged with in the future{fresh}"
    )
    return grid


def _figure(value: float | None, span: Sequence[float] | None) -> str:
    if value is None:
        return "–"
    return decimal(value) + (f"\n[{decimal(span[0])}, {decimal(span[1])}]" if span else "")
