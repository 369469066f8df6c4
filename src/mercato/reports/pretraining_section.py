"""The section of an evaluation's page on what came before the stages: what each pretraining task can tell, by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mercato.config.pretraining import TASKS
from mercato.reports import charts
from mercato.reports.html import legend

NAMES = {
    "mlm": "masked words",
    "mpm": "masked patches",
    "qic": "query–item classification",
    "qim": "query–item matching",
    "qim2": "query–image matching",
    "ict": "titles' own words",
}


def pretraining_section(history: Sequence[Mapping[str, Any]]) -> str:
    """Each task's loss on held-out products, as a share of that of who knows no more than how often each answer is
    right, and a table of the epoch that was kept.
    """
    kept = min(history, key=lambda row: row["validation/loss"])
    tasks = [name for name in TASKS if f"{name}/loss" in kept]
    series = [
        (
            NAMES[name],
            f"s{place}",
            [(float(row["epoch"]), row[f"{name}/loss"] / (row[f"{name}/trivial"] or 1.0)) for row in history],
        )
        for place, name in enumerate(tasks)
    ]
    chart = charts.lines(series, x_label="epoch", whole_x=True, from_zero=True)
    rows = "".join(
        f"<tr><td>{NAMES[name]}</td><td>{kept[f'{name}/weight']:g}</td><td>{kept[f'{name}/loss']:.3f}</td>"
        f"<td>{kept[f'{name}/trivial']:.3f}</td><td>{kept[f'{name}/accuracy']:.0%}</td></tr>"
        for name in tasks
    )
    seconds = sum(row.get("seconds", 0) for row in history)
    return (
        '<h2>Pretraining</h2><p class="soft">What the encoders learned of the catalogue and its queries before the'
        f" stages, measured on products held out of it. {len(history) - 1} epochs in {seconds:.0f} s (runs whose"
        f" pretraining is alike share it); epoch {kept['epoch']} was kept. The mean cosine of two products is"
        f" {kept['vectors/mean_cosine']:.2f}, and their vectors fill {kept['vectors/rank']:.0f} dimensions.</p>"
        '<div class="grid2"><div class="panel"><h3>Loss, as a share of a guess\'s</h3>'
        f"{chart}{legend([(name, css) for name, css, _ in series])}</div>"
        '<div class="panel"><h3>The epoch kept</h3><table><thead><tr><th>task</th><th>weight</th><th>loss</th>'
        f"<th>a guess's</th><th>told</th></tr></thead><tbody>{rows}</tbody></table></div></div>"
    )
