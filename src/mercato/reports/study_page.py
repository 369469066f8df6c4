"""A study's table as one self-contained HTML page: the table, the trade-off, the steps, every row's learning curve."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from mercato.experiments.ablation.measures import Epoch
from mercato.experiments.ablation.study import axes
from mercato.experiments.ablation.table import MetricResult, Step, Table, TableRow
from mercato.reports.html import document, legend, today
from mercato.reports.study_charts import Mark, forest, learning
from mercato.reports.study_text import caption, cell, made, of_paper, score, training_cost
from mercato.reports.study_tradeoff import Place, tradeoff

STYLE = """
main { max-width: 1180px; }
.panel + .soft { margin-top: 10px; max-width: 110ch; }
dl { grid-template-columns: minmax(140px, 26%) 1fr; } dd { overflow-wrap: anywhere; }
.study { font-size: 12.5px; } .study th, .study td { padding-right: 8px; }
.study small { display: block; font-size: 11.5px; } .study td b { display: block; }
.study th { color: var(--ink); font-size: 12px; white-space: normal; vertical-align: bottom; }
.panel.flush { padding-left: 0; }
.study .query { min-width: 150px; padding-left: 20px; position: sticky; left: 0; background: var(--card); }
@media (max-width: 640px) { .study .query { min-width: 128px; max-width: 128px; overflow-wrap: anywhere; } }
svg.whiskers { min-width: 860px; } svg.tradeoff { min-width: 680px; }
.curves { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 14px; margin-top: 16px; }
.curves .panel { margin: 0; padding: 14px 16px 10px; } .curves h3 { margin: 0 0 4px; }
svg .hollow { fill: var(--card); stroke: currentColor; stroke-width: 2; }
svg .zero { stroke: var(--soft); stroke-dasharray: 3 4; }
svg .axis { font-weight: 600; }
svg .halo { paint-order: stroke; stroke: var(--card); stroke-width: 4px; }
"""
ABREAST = 4  # metrics side by side in a chart
MARKS = {"agrees": "better", "disagrees": "worse", "unsure": "unsure"}


def page(table: Table) -> str:
    """The whole page; it needs nothing beside it, and follows light, dark and print."""
    reference = f" · {escape(table.reference)}" if table.reference else ""
    lead = escape(f"{table.note} {score(table)}".strip())
    sections = [
        f'<div class="eyebrow">Ablation study{reference} · {today()}</div><h1>{escape(table.title)}</h1>'
        + (f'<p class="lead">{lead}</p>' if lead else ""),
        _table(table),
        _tradeoff(table),
        _steps(table),
        _first(table),
        _curves(table),
        _facts(table),
    ]
    return document(table.title, sections, STYLE)


def _table(table: Table) -> str:
    head = "".join(f'<th class="number">{_metric_name(metric)}</th>' for metric in table.metrics)
    body = []
    for row in table.rows:
        line = [f'<td class="query">{escape(row.name)}<small>{escape(training_cost(row))}</small></td>']
        for metric in table.metrics:
            mean, *more = map(escape, cell(row, table, metric))
            step = f'<b class="{_mark_of(row.metrics[metric].step)}">{more.pop(0)}</b>' if row.from_ else ""
            small = "".join(f"<small>{each}</small>" for each in more)
            line.append(f'<td class="number">{mean}{step}{small}</td>')
        body.append(f"<tr>{''.join(line)}</tr>")
    return (
        f'<div class="panel scroll flush"><table class="study"><tr><th class="query"></th>{head}</tr>'
        f"{''.join(body)}</table></div>"
        f'<p class="soft"><small>{escape(caption(table))}</small></p>'
    )


def _metric_name(metric: str) -> str:
    """A part and its metric on lines of their own, which may break at underscores."""
    part, _, name = metric.partition(".")
    return f"<small>{escape(part)}</small>{escape(name).replace('_', '_<wbr>')}"


def _tradeoff(table: Table) -> str:
    shown = axes(table.metrics)
    if len(shown) < 2:
        return ""
    up, right = shown
    places = [Place(row.name, _span(row.metrics[right]), _span(row.metrics[up])) for row in table.rows]
    chart = tradeoff(places, right, up, connected=table.curve)
    bars = "" if len(table.seeds) == 1 else ", with the 95 % intervals over seeds"
    return (
        f'<h2>{escape(up)} against {escape(right)}</h2><p class="soft">A point a row, the mean over seeds{bars}.'
        f' Up and to the right is better.</p><div class="panel scroll">{chart}</div>'
    )


def _span(result: MetricResult) -> tuple[float, float, float]:
    half = result.half_width or 0.0
    return result.mean - half, result.mean, result.mean + half


def _steps(table: Table) -> str:
    rows = {row.name: row for row in table.rows}
    steps = [(row, rows[row.from_]) for row in table.rows if row.from_]
    if not steps:
        return ""
    panels = [(metric, [_mark(row, parent, metric) for row, parent in steps]) for metric in table.metrics]
    papers = of_paper(table)
    signs = [("the paper's sign", "better"), ("the other sign", "worse"), ("no sign in the paper", "s0")]
    entries = [*(signs if papers else [("a step", "s0")]), ("cannot be told from 0", "unsure")]
    key = legend(entries) + ('<p class="soft"><small>◇ the paper\'s step</small></p>' if papers else "")
    return (
        '<h2>What each step is worth</h2><p class="soft">Difference to the row that a row starts from, with its 95 %'
        f' interval.</p><div class="panel">{_forests([row.name for row, _ in steps], panels)}{key}</div>'
    )


def _forests(names: Sequence[str], panels: Sequence[tuple[str, Sequence[Mark]]]) -> str:
    """Charts of as many metrics as stand well side by side."""
    blocks = [panels[start : start + ABREAST] for start in range(0, len(panels), ABREAST)]
    return "".join(f'<div class="scroll">{forest(names, block)}</div>' for block in blocks)


def _first(table: Table) -> str:
    """Every row against the first, where that is not what the steps say already."""
    first, *rest = (row.name for row in table.rows)
    if all(row.from_ == first for row in table.rows[1:]):
        return ""
    panels = []
    for metric in table.metrics:
        found = [table.differences[metric][name][first] for name in rest]
        marks = [("unsure" if each.interval[0] <= 0 <= each.interval[1] else "s0", each) for each in found]
        panels.append((metric, [(css, each.value, each.interval, None) for css, each in marks]))
    return (
        f'<h2>All against {escape(first)}</h2><p class="soft">Difference to the first row, with its 95 % interval,'
        " which is not corrected for their number.</p>"
        f'<div class="panel">{_forests(rest, panels)}</div>'
    )


def _mark(row: TableRow, parent: TableRow, metric: str) -> Mark:
    """A step; the paper's in our unit, a relative one as if it were of our figure."""
    step = row.metrics[metric].step
    assert step  # the row starts from `parent`
    paper = step.paper
    if paper is None and step.paper_relative is not None:
        paper = parent.metrics[metric].mean * step.paper_relative / 100
    return _mark_of(step), step.value, step.interval, paper


def _mark_of(step: Step | None) -> str:
    """The colour class of a step."""
    if step is None:
        return ""
    return MARKS[step.verdict] if step.verdict else "s0" if step.sure else "unsure"


def _curves(table: Table) -> str:
    """One small panel a row, all on the same axes."""
    by_row = {row.name: [_points(curve) for curve in row.curves] for row in table.rows}
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
        '<h2>Learning curves</h2><p class="soft">The validation ROC AUC that early stopping goes by, one line a seed;'
        " the steep beginning is left out. It is relevance, engagement or the mean of both, as a row's recipe has it"
        " (monitor): where rows differ in that, compare the shapes, not the heights. A later stage starts from the"
        " best epoch of the one before.</p>"
        f'{numbered}<div class="curves">{panels}</div>'
    )


def _points(curve: Sequence[Epoch]) -> list[list[tuple[float, float]]]:
    """One line a stage, epochs counted on; a later stage begins where the last one ended."""
    stages: dict[int, list[tuple[float, float]]] = {}
    before, last = 0, 0
    for row in sorted(curve, key=lambda row: (row.stage, row.epoch)):
        if row.stage not in stages:
            before = last
        last = before + row.epoch
        points = stages.setdefault(row.stage, [])
        if row.roc_auc is not None:
            points.append((float(last), row.roc_auc))
    return list(stages.values())


def _facts(table: Table) -> str:
    starts = ((f"{row.name}, from {_start(row, table)}", row.set_) for row in table.rows)
    sets = [("every row", table.set_), *starts]
    changes = "".join(
        f"<dt>{escape(name)}</dt><dd><code>{'<br>'.join(map(escape, lines)) or '–'}</code></dd>" for name, lines in sets
    )
    metrics = {f"{part}.{name}" for row in table.rows for part, tree in row.figures.items() for name in tree}
    names = sorted(metrics)
    head = "".join(f'<th class="number">{escape(name)}</th>' for name in names)
    body = "".join(
        f'<tr><td class="query">{escape(row.name)}</td>'
        + "".join(f'<td class="number">{_any_figure(row, name)}</td>' for name in names)
        + "</tr>"
        for row in table.rows
    )
    return (
        f'<h2>Every figure</h2><div class="panel scroll"><table><tr><th></th>{head}</tr>{body}</table></div>'
        '<p class="soft"><small>Means over seeds.</small></p><h2>Rows</h2><div class="panel"><p class="soft">What'
        f" each row changes in what it starts from.</p><dl>{changes}</dl></div>"
        f'<p class="soft"><small>{escape(made(table))}</small></p>'
    )


def _start(row: TableRow, table: Table) -> str:
    if row.recipe and row.from_:
        return f"recipe {row.recipe}, against {row.from_}"
    return row.from_ or f"recipe {row.recipe or table.recipe}"


def _any_figure(row: TableRow, name: str) -> str:
    part, _, metric = name.partition(".")
    value = row.figures.get(part, {}).get(metric)
    return "–" if value is None else f"{value:.3f}"
