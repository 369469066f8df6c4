"""What `mercato tune` prints: the settings worth a look, the page policy, and what deeper later pages save."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table
from rich.text import Text

from mercato.data.market import Market
from mercato.experiments.tuning.choosing import Constraints
from mercato.experiments.tuning.paging import Paging
from mercato.experiments.tuning.tune import Tuned, tune
from mercato.files import write_atomic
from mercato.reports.charts import decimal
from mercato.reports.html import signed
from mercato.reports.tuning_page import LABELS, LEVERS, PAGED_FIGURES, figure, lever, page, sentences, worth_a_look

FIGURES = ("cpu_ms", "p99_ms", "precision", "recall", "engaged", "retrieved", "exact@10", "ndcg@10", "engaged_shown")


def tune_run(run: Path, market: Market, url: str, constraints: Constraints, to: Path) -> Tuned:
    """As `mercato.experiments.tuning.tune.tune`, and write the report, which tells of a refusal too."""
    tuned = tune(run, market, url, constraints)
    write_atomic(to, page(tuned))
    return tuned


def summary(tuned: Tuned) -> Group:
    """The frontier with the usual and the chosen settings, what paging saves, and the choice in words."""
    shown = worth_a_look(tuned)
    figures = [name for name in FIGURES if any(name in each.figures for each, _ in shown)]
    table = Table(*LEVERS.values(), *(LABELS[name] for name in figures), "")
    for each, what in shown:
        levers = [lever(each.setting, name) for name in LEVERS]
        table.add_row(*levers, *(figure(name, each.figures.get(name)) for name in figures), what)
    parts: list[Table | Text] = [table]
    if tuned.paging:
        parts.append(_paging(tuned.paging))
    return Group(*parts, *map(Text, sentences(tuned)))


def _paging(paging: Paging) -> Table:
    table = Table("efforts", *PAGED_FIGURES.values(), "first page, p99 ms")
    for policy, each in paging.replayed.items():
        cells = []
        for name in PAGED_FIGURES:
            if name not in each.estimates:
                cells.append("–")
                continue
            ms = name == "cpu_ms"
            cells.append(f"{each.estimates[name].value:.2f}" if ms else decimal(each.estimates[name].value))
            if (policy, name) in paging.differences:
                difference = paging.differences[policy, name][0]
                cells[-1] += f" ({difference:+.2f})" if ms else f" ({signed(difference)})"
        table.add_row(policy + (" (chosen)" if policy == paging.chosen else ""), *cells, f"{each.first_p99_ms:.1f}")
    return table
