"""`mercato robustness`: what runs lose without each field, as a page and as JSON beside it."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Group
from rich.markup import escape
from rich.table import Table

from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.metrics.bootstrap import Interval
from mercato.evaluation.robustness import Robustness
from mercato.evaluation.robustness import robustness as measure
from mercato.files import write_atomic
from mercato.reports.charts import decimal
from mercato.reports.headlines import Headline
from mercato.reports.html import signed
from mercato.reports.robustness_page import loss_text, measured_headlines, rows, write_robustness_report

HTML = "robustness.html"
TABLES = 3  # for a terminal; the page has every metric


def robustness(runs: Sequence[Path], market: Market, page: Path, seed: int = 0) -> Robustness:
    """Measure what runs lose without each field; write the HTML file `page` (`page_of`) and its JSON beside it."""
    result = measure(runs, market, seed)
    write_atomic(page.with_suffix(".json"), json.dumps(result.as_dict(), indent=2) + "\n")
    write_robustness_report(result, page)
    return result


def page_of(runs: Sequence[Path], wanted: Path | None = None) -> Path:
    """Where the page goes: where it is wanted, else into the only run.

    Raises:
        MercatoError: several runs and no wish, or one for a file that is no page.
    """
    if wanted is None and len(runs) > 1:
        raise MercatoError("several runs need a place for their page: --out FILE.html")
    if wanted is not None and wanted.suffix != ".html":
        raise MercatoError(f"--out {wanted}: must end in .html; the JSON is written beside it")
    return wanted or runs[0] / HTML


def summary(result: Robustness) -> Group:
    """What each run loses without each field, as a table for each of the first headline metrics."""
    return Group(*(_table(result, headline) for headline in measured_headlines(result)[:TABLES]))


def _table(result: Robustness, headline: Headline) -> Table:
    grid = Table(title=headline.label, title_justify="left")
    comparison = result.comparison
    for head in ("", *(escape(run.name) for run in result.runs)):
        grid.add_column(head, justify="right" if head else "left")
    if comparison:
        grid.add_column(f"{escape(comparison.second)} loses less by", justify="right")
    for row in rows(result, headline):
        found = [_cell(loss.loss, loss.interval, loss_text) if loss else "not read" for loss in row.losses]
        if comparison:
            less = row.less_lost
            found.append(_cell(less.difference, less.interval, signed) if less else "–")
        grid.add_row(escape(row.name), *found)
    whole = [f"{run.name} {decimal(figure.value)}" for run in result.runs if (figure := headline.of(run.whole))]
    grid.caption = escape(f"lost without the field, of {', '.join(whole)}; 95 % intervals over queries")
    return grid


def _cell(value: float, span: Interval | None, text: Callable[[float], str]) -> str:
    return text(value) + (f" [{text(span[0])}, {text(span[1])}]" if span else "")
