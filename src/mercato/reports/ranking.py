"""What `mercato rank` prints: the ranked order beside the cosine's, and what the trees go by."""

from __future__ import annotations

from rich.console import Group
from rich.table import Table

from mercato.ranking.train import COSINE, Ranked
from mercato.reports.charts import decimal
from mercato.reports.headlines import HEADLINES

FEATURES = 10  # shown


def summary(ranked: Ranked) -> Group:
    """Every headline of what the same search finds, ranked and by its cosine, and the difference's 95 % interval."""
    metrics = ranked.metrics
    table = Table("", "ranked", "by cosine", "difference")
    theirs, differences = metrics.baselines[COSINE], metrics.differences[COSINE]
    for headline in HEADLINES:
        ours, cosine, apart = headline.of(metrics.ours), headline.of(theirs), headline.of(differences)
        if ours is not None and cosine is not None:
            less = f"{ours.value - cosine.value:+.4f}"
            interval = f" [{apart[0]:+.4f}, {apart[1]:+.4f}]" if apart else ""
            table.add_row(headline.label, decimal(ours.value), decimal(cosine.value), less + interval)
    gained = Table("feature", "share of the trees' gain")
    for name, share in list(ranked.gains.items())[:FEATURES]:
        gained.add_row(name, f"{share:.1%}")
    return Group(table, gained)
