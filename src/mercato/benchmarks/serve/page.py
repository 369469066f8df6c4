"""The page of `mercato bench serve`: the report's figures as charts and tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mercato.benchmarks.serve.report import BESIDE, ONE, OPEN, VERDICTS, facts
from mercato.reports.charts import stacked
from mercato.reports.html import document, legend

_PERCENTILES = ("p50_ms", "p95_ms", "p99_ms")


def page(report: Mapping[str, Any]) -> str:
    """The whole page, as HTML."""
    parts = report["parts_ms"]
    colours = {part: f"s{number}" for number, part in enumerate(parts)}
    whole = [(colours[part], max(0.0, spent)) for part, spent in parts.items()]
    described = "".join(f"<li>{escape(fact)}</li>" for fact in facts(report))
    bounds = [(line["what"], line["value"], line["bound"], VERDICTS[line["met"]]) for line in report["budget"]]
    return document(
        "mercato bench serve",
        [
            f'<p class="eyebrow">mercato bench serve</p><h1>{report["products"]:,} products over HTTP</h1>',
            f'<ul class="soft">{described}</ul>',
            f"<h2>Budget</h2>{_panel(_table(('', 'measured', 'bound', ''), bounds))}",
            "<h2>Where the time goes</h2><p>The first page of a query that nobody asked for yet, one client: the parts"
            " as they take in one process on one thread, and what HTTP adds to them.</p>",
            _panel(stacked([("one search", whole)], "ms") + legend([*colours.items()])),
            _table(("part", "ms"), list(parts.items())),
            *(_latencies(report, phase) for phase in (ONE, OPEN, BESIDE)),
        ],
    )


def _latencies(report: Mapping[str, Any], phase: str) -> str:
    rows = [row for row in report["rows"] if row["phase"] == phase and row["p50_ms"] is not None]
    bars = []
    for row in rows:
        p50, p95, p99 = (row[name] for name in _PERCENTILES)
        bars.append((row["kind"], [("s0", p50), ("s1", p95 - p50), ("s4", p99 - p95)]))
    names = ("kind", "asked", "answered", "refused", "failed", "no_page", *_PERCENTILES, "products_left")
    return (
        f"<h2>{escape(phase.capitalize())}</h2>"
        + _panel(stacked(bars, "ms") + legend([("p50", "s0"), ("p95", "s1"), ("p99", "s4")]))
        + _table(names, [[row[name] for name in names] for row in rows])
    )


def _panel(content: str) -> str:
    return f'<div class="panel"><div class="scroll">{content}</div></div>'


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    head = "".join(f"<th{_number(place)}>{escape(name.replace('_', ' '))}</th>" for place, name in enumerate(names))
    body = "".join(
        f"<tr>{''.join(f'<td{_number(place)}>{_cell(value)}</td>' for place, value in enumerate(row))}</tr>"
        for row in rows
    )
    return f'<div class="scroll"><table><tr>{head}</tr>{body}</table></div>'


def _number(place: int) -> str:
    return ' class="number"' if place else ""


def _cell(value: Any) -> str:
    if value is None:
        return "–"
    return (
        f"{value:,.2f}" if isinstance(value, float) else escape(f"{value:,}" if isinstance(value, int) else str(value))
    )
