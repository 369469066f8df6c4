"""`RUN/ranking/report.html`: one self-contained page of what each order is worth, and what each stage goes by."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from mercato.evaluation.metrics.registry import SEARCH_PARTS, directed
from mercato.evaluation.results import OURS, Metrics
from mercato.files import write_atomic
from mercato.ranking.calibration import Held, StepCalibration
from mercato.ranking.train import COSINE, Ranked, Shares
from mercato.reports import charts
from mercato.reports.evaluation_page import TITLES, UNITS
from mercato.reports.headlines import HEADLINES, metric_label
from mercato.reports.html import document, legend, signed, today
from mercato.reports.verdicts import compared, verdict

ORDERS = {OURS: ("ranked", "s0"), "trees": ("stage 1 alone", "s1"), COSINE: ("cosine", "s2")}
FEATURES = 15  # shown of each stage


def write_ranking_report(ranked: Ranked, path: Path, title: str) -> None:
    """Write what `mercato rank` found as one HTML file that needs nothing beside it."""
    sections = [_head(ranked.metrics, title), _differences(ranked.metrics), _figures(ranked.metrics)]
    sections += [_calibration(ranked.calibration)] * bool(ranked.calibration)
    write_atomic(path, document(title, [*sections, _shares(ranked)]))


def _head(metrics: Metrics, title: str) -> str:
    found: dict[str, list[str]] = {"better": [], "worse": [], "unsure": []}
    for headline in HEADLINES:
        if (less := compared(metrics, COSINE, headline.part, headline.metric)) and directed(
            headline.part, headline.metric
        ):
            found[verdict(less)].append(f"{escape(headline.label)} <b>{signed(less.value)}</b>")
    said = [f"Ahead of the cosine's order on {'; '.join(found['better'])}."] if found["better"] else []
    said += [f"Behind on {'; '.join(found['worse'])}."] if found["worse"] else []
    said += [] if said else ["Not told apart from the cosine's order on any headline metric."]
    return (
        f'<div class="eyebrow">Ranking report · {today()}</div><h1>{escape(title)}</h1>'
        f'<p class="lead">{" ".join(said)}</p>'
        '<p class="soft">All orders are of the same candidates, on the test judgments and on future days. Ahead and'
        " behind: by 95% intervals that hold all together.</p>"
    )


def _differences(metrics: Metrics) -> str:
    others = [order for order in ORDERS if order in metrics.baselines]
    head = "".join(f'<th class="number">less {escape(ORDERS[order][0])}</th>' for order in others)
    rows = []
    for headline in HEADLINES:
        if (ours := headline.of(metrics.ours)) is None:
            continue
        cells = []
        for order in others:
            less = compared(metrics, order, headline.part, headline.metric)
            span = f" [{', '.join(map(signed, less.interval))}]" if less and less.interval else ""
            css = verdict(less) if less and directed(headline.part, headline.metric) else "unsure"
            cells.append(f'<td class="number {css}">{signed(less.value)}{span}</td>' if less else "<td></td>")
        rows.append(
            f"<tr><td>{escape(headline.label)}</td>"
            f'<td class="number"><b>{charts.decimal(ours.value)}</b></td>{"".join(cells)}</tr>'
        )
    return (
        '<h2>What the order is worth</h2><div class="panel scroll"><table>'
        f'<tr><th></th><th class="number">ranked</th>{head}</tr>{"".join(rows)}</table></div>'
    )


def _figures(metrics: Metrics) -> str:
    orders = {order: ORDERS[order] for order in ORDERS if order == OURS or order in metrics.baselines}
    panels = []
    for part in (part for part in SEARCH_PARTS if part in metrics.ours):
        rows = []
        for metric in (metric for metric in metrics.ours[part] if directed(part, metric)):
            found = [(css, metrics.of(order).get(part, {}).get(metric)) for order, (_, css) in orders.items()]
            marks: list[charts.Mark] = [(css, figure.value, figure.interval) for css, figure in found if figure]
            rows.append((metric_label(part, metric), marks))
        title, what = TITLES[part]
        panels.append(
            f'<div class="panel"><h3>{title} <small>{what} · {metrics.n.parts[part].queries:,} queries</small></h3>'
            f'<div class="scroll">{charts.dot_whisker(rows)}</div></div>'
        )
    return (
        f'<h2>Every figure</h2><p class="soft">Whiskers are 95% bootstrap intervals over {UNITS[metrics.n.unit]}.</p>'
        f"{legend([*orders.values()])}{''.join(panels)}"
    )


def _calibration(steps: Sequence[StepCalibration]) -> str:
    heads = [
        f'<th class="number">{what}, told</th><th class="number">found</th><th class="number">ECE</th>'
        '<th class="number">of</th>'
        for what in ("at the first place", "after the step before")
    ]
    rows = [
        f"<tr><td>{escape(each.step)}</td>{_held(each.first)}{'' if number == 0 else _held(each.given)}</tr>"
        for number, each in enumerate(steps)
    ]
    return (
        '<h2>Whether stage 2’s chances come true</h2><p class="soft">On the displayed lists of future days: the mean'
        " chance told, the share of which it came true, and the expected calibration error over ten bins of equal mass."
        ' At the first place: of coming as far as this step.</p><div class="panel scroll"><table>'
        f"<tr><th></th>{''.join(heads)}</tr>{''.join(rows)}</table></div>"
    )


def _held(held: Held | None) -> str:
    if held is None:
        return "<td></td>" * 4
    cells = [*(charts.decimal(value) for value in (held.told, held.found, held.ece)), f"{held.rows:,}"]
    return "".join(f'<td class="number">{cell}</td>' for cell in cells)


def _shares(ranked: Ranked) -> str:
    panels = [
        _bars(
            "Stage 1, by gain", "of each feature in the trees' splits, or the size of its weight", ranked.gains, "s1"
        ),
        _bars("Stage 1, by SHAP values", "their mean size", ranked.shap, "s1"),
        _bars(
            "Stage 2",
            "what its worth changes by where a feature, stage 1's score or an id is unknown",
            ranked.network,
            "s0",
        ),
    ]
    return f'<h2>What each stage goes by</h2><p class="soft">Shares of all, in percent.</p>{"".join(panels)}'


def _bars(title: str, what: str, shares: Shares, css: str) -> str:
    if not shares:
        return ""
    first = sorted(shares.items(), key=lambda item: -item[1])[:FEATURES]
    rows = [(name.replace("_", " "), [(css, 100 * share)]) for name, share in first]
    return (
        f'<div class="panel"><h3>{escape(title)} <small>{escape(what)}</small></h3>'
        f'<div class="scroll">{charts.stacked(rows, "%")}</div></div>'
    )
