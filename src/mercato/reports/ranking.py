"""`mercato rank`: a run's ranker, what it prints and its page: the ranked order beside stage 1's and the cosine's."""

from __future__ import annotations

from pathlib import Path

from rich.console import Group
from rich.table import Table

from mercato.data.market import Market
from mercato.evaluation.results import Figure
from mercato.ranking.calibration import Held
from mercato.ranking.ranker import FOLDER
from mercato.ranking.train import COSINE, Ranked, rank
from mercato.reports.charts import decimal
from mercato.reports.headlines import HEADLINES
from mercato.reports.ranking_page import write_ranking_report

REPORT = "report.html"
FEATURES = 10  # shown
TOLD = ("told", "found", "ECE")


def rank_run(run: Path, market: Market, url: str) -> Ranked:
    """Train and measure both stages of a run's ranker; it lies in the run, with a page of what it is worth."""
    ranked = rank(run, market, url)
    write_ranking_report(ranked, run / FOLDER / REPORT, f"How {run.name} orders {market.config.name}")
    return ranked


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
    trees = Table("stage 1 goes by", "share of gain", "of SHAP values")
    for name, share in list(ranked.gains.items())[:FEATURES]:
        trees.add_row(name, f"{share:.1%}", f"{ranked.shap[name]:.1%}")
    network = Table("stage 2 goes by", "share of what it changes")
    for name, share in list(ranked.network.items())[:FEATURES]:
        network.add_row(name, f"{share:.1%}")
    told = Table("stage 2's chance of", *(f"{of}: {what}" for of in ("first place", "going on") for what in TOLD))
    for step in ranked.calibration:
        told.add_row(step.step, *(cell for held in (step.first, step.given) for cell in _held(held)))
    return Group(table, trees, *[network] * bool(ranked.network), *[told] * bool(ranked.calibration))


def _held(held: Held | None) -> list[str]:
    return ["–"] * len(TOLD) if held is None else [decimal(value) for value in (held.told, held.found, held.ece)]


def _value(figure: Figure | None) -> str:
    return "–" if figure is None else decimal(figure.value)
