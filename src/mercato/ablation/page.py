"""A study's table as one self-contained HTML page: the table, the steps as a forest, every row's learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

from mercato.ablation.charts import forest, learning
from mercato.ablation.table import COLUMNS, KEY, cells, made, score, source
from mercato.evaluation.html import document, legend, today

Tree = dict[str, Any]

STYLE = """
.panel + .soft { margin-top: 10px; max-width: 110ch; }
dl { grid-template-columns: minmax(140px, 26%) 1fr; } dd { overflow-wrap: anywhere; }
td.verdict { font-weight: 700; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; margin-top: 16px; }
.curves .panel { margin: 0; padding: 14px 16px 10px; } .curves h3 { margin: 0 0 4px; }
svg .hollow { fill: var(--card); stroke: currentColor; stroke-width: 2; }
svg .zero { stroke: var(--soft); stroke-dasharray: 3 4; }
"""
MARKS = {"agrees": "better", "disagrees": "worse", "unsure": "unsure"}


def page(table: Tree) -> str:
    """The whole page; it needs nothing beside it, and follows light, dark and print."""
    reference = f" · {escape(table['reference'])}" if table["reference"] else ""
    sections = [
        f'<div class="eyebrow">Ablation study{reference} · {today()}</div><h1>{escape(table["title"])}</h1>'
        f'<p class="lead">{escape(table["note"])} {escape(score(table))}</p>',
        _table(table),
        _forest(table),
        _curves(table),
        _facts(table),
    ]
    return document(table["title"], sections, STYLE)


def _table(table: Tree) -> str:
    head = "".join(f'<th class="{"number" if place else ""}">{escape(name)}</th>' for place, name in enumerate(COLUMNS))
    body = []
    for row in table["rows"]:
        verdict = MARKS.get((row["step"] or {}).get("verdict") or "", "")
        name, *others = map(escape, cells(row))
        marked = "".join(
            f'<td class="number{f" verdict {verdict}" if COLUMNS[place] == "" else ""}">{cell}</td>'
            for place, cell in enumerate(others, 1)
        )
        body.append(f'<tr><td class="query">{name}</td>{marked}</tr>')
    return (
        f'<div class="panel scroll"><table><tr>{head}</tr>{"".join(body)}</table></div>'
        f'<p class="soft"><small>{escape(source(table))}. {escape(table["method"])} {KEY}.</small></p>'
    )


def _forest(table: Tree) -> str:
    steps = [row for row in table["rows"] if row["step"]]
    if not steps:
        return ""
    marks = [
        (
            f"{row['name']}",
            MARKS.get(row["step"]["verdict"] or "", "s0"),
            row["step"]["value"],
            (row["step"]["interval"][0], row["step"]["interval"][1]),
            _paper_step(row, table["rows"]),
        )
        for row in steps
    ]
    key = (
        '<div class="legend"><span class="better"><i></i><b>the paper\'s sign</b></span>'
        '<span class="worse"><i></i><b>the other sign</b></span>'
        '<span class="unsure"><i></i><b>cannot be told from 0</b></span><span><b>◇ the paper\'s step</b></span></div>'
    )
    return (
        '<h2>What each step is worth</h2><p class="soft">Difference to the row that a row starts from, with its 95 %'
        f' interval.</p><div class="panel"><div class="scroll">{forest(marks)}</div>{key}</div>'
    )


def _paper_step(row: Tree, rows: Sequence[Tree]) -> float | None:
    """The paper's step in our unit; a relative one as if it were of our figure."""
    step: Tree = row["step"]
    if step["paper"] is not None or step["paper_relative"] is None:
        paper: float | None = step["paper"]
        return paper
    parent = next(other for other in rows if other["name"] == row["from"])
    return float(parent["mean"] * step["paper_relative"] / 100)


def _curves(table: Tree) -> str:
    """One small panel a row, all on the same axes."""
    by_row = {row["name"]: [_points(curve) for curve in row["curves"]] for row in table["rows"]}
    every = [point for curves in by_row.values() for stages in curves for stage in stages for point in stage]
    if not every:
        return ""
    bests = [max(value for _, value in stages[0]) for curves in by_row.values() for stages in curves if any(stages[:1])]
    best, worst, last = max(value for _, value in every), min(bests), max(epoch for epoch, _ in every)
    around = (best - worst) or 0.01  # as much below the worst row's best as the rows differ: where the differences show
    low, high = worst - around, best + 0.1 * around
    panels = "".join(
        f'<div class="panel"><h3>{escape(name)}</h3>{learning(curves, low, high, last)}</div>'
        for name, curves in by_row.items()
    )
    stages = max(len(stages) for curves in by_row.values() for stages in curves)
    numbered = legend([(f"stage {stage + 1}", f"s{stage % 5}") for stage in range(stages)]) if stages > 1 else ""
    return (
        '<h2>Learning curves</h2><p class="soft">Validation ROC AUC by epoch, one line a seed; the steep beginning is'
        " left out. A later stage starts from the best epoch of the one before.</p>"
        f'{numbered}<div class="curves">{panels}</div>'
    )


def _points(curve: Sequence[Tree]) -> list[list[tuple[float, float]]]:
    """One line a stage, epochs counted on; a later stage begins where the last one ended."""
    stages: dict[int, list[tuple[float, float]]] = {}
    before, last = 0, 0
    for row in sorted(curve, key=lambda row: (row["stage"], row["epoch"])):
        if row["stage"] not in stages:
            before = last
        last = before + row["epoch"]
        points = stages.setdefault(row["stage"], [])
        if row["roc_auc"] is not None:
            points.append((float(last), row["roc_auc"]))
    return list(stages.values())


def _facts(table: Tree) -> str:
    starts = ((f"{row['name']}, from {row['from'] or table['recipe']}", row["set"]) for row in table["rows"])
    sets = [("every row", table["set"]), *starts]
    changes = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{'<br>'.join(map(escape, lines)) or '–'}</code></dd>" for name, lines in sets
    )
    metrics = {f"{part}.{name}" for row in table["rows"] for part, tree in row["figures"].items() for name in tree}
    names = sorted(metrics)
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><td class="query">{escape(row["name"])}</td>'
        + "".join(f'<td class="number">{_any_figure(row, name)}</td>' for name in names)
        + "</tr>"
        for row in table["rows"]
    )
    return (
        f'<h2>Every figure</h2><div class="panel scroll"><table><tr><th></th>{head}</tr>{body}</table></div>'
        '<p class="soft"><small>Means over seeds.</small></p><h2>Rows</h2><div class="panel"><p class="soft">Changes'
        f" to the recipe {escape(table['recipe'])}.</p><dl>{changes}</dl></div>"
        f'<p class="soft"><small>{escape(made(table))}</small></p>'
    )


def _any_figure(row: Tree, name: str) -> str:
    part, _, metric = name.partition(".")
    value = row["figures"].get(part, {}).get(metric)
    return "–" if value is None else f"{value:.3f}"
