"""The section of an evaluation's page on how the model was trained: validation and losses by epoch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from mercato.reports import charts
from mercato.reports.html import legend
from mercato.runs.folder import monitored


def training_section(history: Sequence[Mapping[str, Any]]) -> str:
    """The validation curve over all stages, each in a colour of its own (Que2Search Figure 3), and their losses."""
    stages: dict[int, list[Mapping[str, Any]]] = {}
    for row in history:
        stages.setdefault(int(row.get("stage", 1)), []).append(row)
    validated, panels, done, metric = [], [], 0, ""
    for number, rows in stages.items():
        found = [(float(done + row["epoch"]), of) for row in rows if (of := monitored(row))]
        curve = [(epoch, value) for epoch, (_, value) in found]
        metric = found[0][1][0] if found else metric
        if curve:
            validated.append((f"stage {number}", f"s{(number - 1) % 5}", curve))
        named: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            for name, value in {"loss": row.get("loss"), **row.get("losses", {})}.items():
                if value is not None:
                    named.setdefault(name, []).append((float(done + row["epoch"]), float(value)))
        if named:
            series = [(name, f"s{place % 5}", points) for place, (name, points) in enumerate(named.items())]
            chart = charts.lines(series, x_label="epoch", whole_x=True)
            marks = legend([(name, css) for name, css, _ in series])
            heading = "Loss" if len(stages) == 1 else f"Loss of stage {number}"
            panels.append(f'<div class="panel"><h3>{heading}</h3>{chart}{marks}</div>')
        done += max(int(row["epoch"]) for row in rows)
    if validated:
        chart = charts.lines(validated, x_label="epoch", whole_x=True)
        marks = legend([(name, css) for name, css, _ in validated]) if len(validated) > 1 else ""
        of_both = any("validation/engagement" in row for row in history)
        meaning = " <small>the mean of relevance and engagement</small>" if of_both else ""
        panels.insert(0, f'<div class="panel"><h3>Validation {escape(metric)}{meaning}</h3>{chart}{marks}</div>')
    seconds = sum(row.get("seconds", 0) for row in history)
    took = f" in {seconds / 60:.1f} minutes" if seconds >= 60 else f" in {seconds:.0f} s" if seconds else ""
    text = f"{done} epoch{'s' * (done != 1)}{took}; a stage begins with the best epoch of the one before."
    return f'<h2>Training</h2><p class="soft">{text}</p><div class="grid2">{"".join(panels)}</div>'
