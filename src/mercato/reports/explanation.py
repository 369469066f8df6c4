"""`mercato explain`: what a run's towers look at, as `explain.json` and `explain.html` in the run."""

from __future__ import annotations

import json
from pathlib import Path

from rich.console import Group
from rich.table import Table

from mercato.data.market import Market
from mercato.evaluation.importance import Ablation
from mercato.evaluation.interpretation import Explanation, explain_run
from mercato.fields import channel_groups, label_of
from mercato.files import write_atomic
from mercato.reports.charts import decimal
from mercato.reports.explanation_page import write_explain_report
from mercato.reports.html import percent
from mercato.reports.photos_section import photo_squares
from mercato.runs.folder import load_image_encoder

JSON, HTML = "explain.json", "explain.html"


def explain(run: Path, market: Market, seed: int = 0) -> Explanation:
    """Explain a run, as `explain_run`, and write what was found into its folder."""
    explanation = explain_run(run, market, seed)
    write_atomic(run / JSON, json.dumps(explanation.as_dict(), indent=2) + "\n")
    encoder = load_image_encoder(run)
    squares = photo_squares(market, explanation.photos, encoder.spec) if explanation.photos and encoder else {}
    write_explain_report(explanation, run / HTML, squares)
    return explanation


def summary(explanation: Explanation) -> Group:
    """The report's figures as tables for a terminal."""
    return Group(*(_table(explanation, tower) for tower in ("query", "product")))


def _table(explanation: Explanation, tower: str) -> Table:
    attention, ablation = explanation.attention[tower], explanation.importance[tower]
    grid = Table(title=f"The {tower} tower", title_justify="left")
    heads = ("attention", "importance: missing", "another's", "ROC AUC without", "change", "paper")
    grid.add_column("")
    for head in heads:
        grid.add_column(head, justify="right")
    weights = {name: weight.mean for name, weight in attention.channels.items()} if attention else {}
    paper = explanation.paper["importance"][tower]
    rows = [(label_of(name), name, kinds) for name, kinds in ablation.channels.items()]
    whole = [field for field, channels in channel_groups(tuple(ablation.channels)).items() if len(channels) > 1]
    groups = ablation.groups or {}
    rows += [(f"{field}, whole", "", groups[field]) for field in whole]  # "": neither weight nor paper
    for place, (label, channel, kinds) in enumerate(rows):
        if place == len(ablation.channels):
            grid.add_section()
        missing = kinds["missing"]
        grid.add_row(
            label,
            percent(weights.get(channel)),
            percent(missing.share),
            percent(kinds["other"].share),
            "–" if missing.roc_auc is None else decimal(missing.roc_auc),
            _change(missing),
            percent(paper.get(channel)),
        )
    n, roc_auc = explanation.n, explanation.roc_auc
    auc = "" if roc_auc is None else f"; ROC AUC of all together {decimal(roc_auc)}"
    grid.caption = f"{n.count:,} {n.pairs} pairs of {n.queries:,} queries{auc}"
    if attention is None:
        grid.caption += f"; the fusion {explanation.fusion[tower]!r} has no attention weights"
    return grid


def _change(kind: Ablation) -> str:
    if kind.roc_auc_change is None:
        return "–"
    span = kind.interval
    return f"{kind.roc_auc_change:+.3f}" + (f" [{span[0]:+.3f}, {span[1]:+.3f}]" if span else "")
