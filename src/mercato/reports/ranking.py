"""What `mercato rank` prints: the ranked order beside the first stage's and the cosine's, and what the trees go by."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from mercato.evaluation.results import Figure
from mercato.ranking.train import COSINE, Ranked
from mercato.reports.charts import decimal
from mercato.reports.headlines import HEADLINES

FEATURES = 10  # shown


def summary(ranked: Ranked) -> Group:
    """Every headline of what the same search finds in each order, and the 95 % interval of ranked less cosine."""
    metrics = ranked.metrics
    table = Table("", "ranked", *metrics.baselines, "ranked less cosine")
    for headline in HEADLINES:
        ours, apart = headline.of(metrics.ours), headline.of(metrics.differences[COSINE])
        others = [headline.of(figures) for figures in metrics.baselines.values()]
        if ours is not None and (cosine := headline.of(metrics.baselines[COSINE])) is not None:
            less = f"{ours.value - cosine.value:+.4f}"
            interval = f" [{apart[0]:+.4f}, {apart[1]:+.4f}]" if apart else ""
            table.add_row(headline.label, decimal(ours.value), *map(_value, others), less + interval)
    gained = Table("feature", "share of the trees' gain")
    for name, share in list(ranked.gains.items())[:FEATURES]:
        gained.add_row(name, f"{share:.1%}")
    return Group(table, gained)


def _value(figure: Figure | None) -> str:
    return "–" if figure is None else decimal(figure.value)
