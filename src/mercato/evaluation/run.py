"""`mercato evaluate`: a run on a market, as `metrics.json` and `report.html` in the run."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from mercato.data.market import Market
from mercato.data.pairs import recipe_pairs
from mercato.evaluation.details import collect_details, collect_examples
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.report import write_report
from mercato.evaluation.understanding import BASELINES, NEW, PART, PARTS, Understanding
from mercato.files import write_whole
from mercato.models.encoder import Encoder
from mercato.models.image_vectors import products_with_vectors
from mercato.models.model import Model
from mercato.models.run import read_history

HEADLINES = (
    ("relevance", "roc_auc", "relevance ROC AUC"),
    ("relevance", "roc_auc_per_query", "relevance ROC AUC, per query"),
    ("relevance", "ndcg@10", "relevance nDCG@10"),
    ("engagement", "roc_auc", "engagement ROC AUC"),
    ("batch", "recall@1", "batch recall@1"),
    ("knn", "recall@10", "KNN recall@10"),
    ("knn", "recall@100", "KNN recall@100"),
    ("unseen", "recall@10", "KNN recall@10, pairs new to the log"),
)
METRICS, REPORT = "metrics.json", "report.html"


def evaluate_run(run: Path, market: Market, others: Mapping[str, Encoder] | None = None) -> dict[str, Any]:
    """Every metric that the market's tables allow; where it has no pairs, the held-out pairs of the run's recipe.

    `others` are more encoders to compare with, by name. Writes `metrics.json` and `report.html` into the run.
    """
    model = Model.load(run)
    model.market_path = market.path
    pairs, withhold = None, tuple[str, ...]()
    if model.recipe.pairs.catalogue and not market.has("pairs") and not market.has("judgments"):
        first = model.recipe.pairs.catalogue[:1]  # one kind of held-out question
        pairs = recipe_pairs(market, model.recipe.pairs.model_copy(update={"market": False, "catalogue": first}))
        withhold = first[0].withhold
    evaluation = Evaluation.of(
        model, market, pairs=pairs, withhold=withhold, others=others, products=products_with_vectors(market, model, run)
    )
    metrics = evaluation.metrics()
    head = model.query_head
    understanding = Understanding.of(head, evaluation, pairs, "title" not in withhold) if head else None
    if understanding:
        understanding.add_to(metrics)
    write_whole(run / METRICS, json.dumps(metrics, indent=2) + "\n")
    write_report(
        metrics,
        run / REPORT,
        title=f"{model.recipe.name} on {market.config.name}",
        recipe_text=model.recipe.toml(),
        history=read_history(run),
        details=collect_details(evaluation),
        examples=collect_examples(evaluation),
        understood=understanding.examples() if understanding else (),
    )
    return metrics


def summary(metrics: Mapping[str, Any]) -> Group:
    """Ours beside BM25, random and whatever else was measured, with 95 % intervals."""
    return Group(_of_search(metrics), *([_of_products(metrics)] if PART in metrics else []))


def _of_search(metrics: Mapping[str, Any]) -> Table:
    systems = {
        "mercato": metrics,
        **{name: tree for name, tree in metrics["baselines"].items() if not {*tree} <= {*PARTS}},
    }
    grid = Table("", *map(escape, systems))
    for part, metric, label in HEADLINES:
        cells = []
        for name, values in systems.items():
            intervals = metrics["intervals"] if name == "mercato" else metrics["intervals"]["baselines"][name]
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


def _of_products(metrics: Mapping[str, Any]) -> Table:
    trees, spans = metrics["baselines"], metrics["intervals"]
    systems = [(metrics, spans), *((trees[name], spans["baselines"][name]) for name in BASELINES)]
    grid = Table("predicted queries", "mercato", *BASELINES)
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
    return f"{value:.3f}" + (f" [{span[0]:.3f}, {span[1]:.3f}]" if span else "")
