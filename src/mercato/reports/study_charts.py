"""A study's steps and learning curves as inline SVG; colours come from the page's CSS."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

from mercato.reports.charts import ticks
from mercato.reports.study_text import signed

Point = tuple[float, float]
Mark = tuple[str, float, Point, float | None]  # css class, value, interval, the paper's value

LABEL = 40  # a tick's label with some room beside it


def forest(names: Sequence[str], panels: Sequence[tuple[str, Sequence[Mark]]]) -> str:
    """Differences, a line a name: in each panel (title, marks) a dot with its whisker, a diamond for the paper's."""
    left, width, step, top = 300, 520 // len(panels), 34, 40
    height = top + step * len(names) + 34
    svg = [f'<svg viewBox="0 0 {left + (width + 90) * len(panels)} {height}" role="img" class="whiskers">']
    for line, name in enumerate(names):
        y = top + step * line + step / 2 + 4
        svg.append(f'<text class="name" x="{left - 16}" y="{y:.1f}" text-anchor="end">{escape(short(name))}</text>')
    for place, (title, marks) in enumerate(panels):
        begin = left + place * (width + 90)
        part, _, metric = title.partition(".")
        svg.append(f'<text x="{begin}" y="12">{escape(part)}</text>')
        svg.append(f'<text class="axis" x="{begin}" y="28">{escape(metric)}</text>')
        svg += _panel(marks, begin, width, top, step)
    return "".join([*svg, "</svg>"])


def _panel(marks: Sequence[Mark], left: float, width: float, top: float, step: float) -> list[str]:
    ends = [0.0, *(end for _, _, interval, _ in marks for end in interval)]
    ends += [paper for *_, paper in marks if paper is not None]
    margin = (max(ends) - min(ends)) * 0.06 or 0.01
    low, high = min(ends) - margin, max(ends) + margin
    bottom = top + step * len(marks) + 8

    def at(value: float) -> float:
        return left + width * (value - low) / (high - low)

    svg = []
    found = ticks(low, high)
    apart = math.ceil(LABEL * len(found) / width)  # of so many ticks one has its label, 0 always
    zero = found.index(0.0)
    for place, tick in enumerate(found):
        svg.append(f'<line class="grid" x1="{at(tick):.1f}" y1="{top}" x2="{at(tick):.1f}" y2="{bottom}"/>')
        label = f"{tick:+g}".replace("-", "−") if tick else "0"
        if (place - zero) % apart == 0:
            svg.append(f'<text class="tick" x="{at(tick):.1f}" y="{bottom + 18}" text-anchor="middle">{label}</text>')
    svg.append(f'<line class="zero" x1="{at(0):.1f}" y1="{top}" x2="{at(0):.1f}" y2="{bottom}"/>')
    for line, (css, value, interval, paper) in enumerate(marks):
        y = top + step * line + step / 2
        svg.append(
            f'<line class="whisker {css}" x1="{at(interval[0]):.1f}" y1="{y}" x2="{at(interval[1]):.1f}" y2="{y}"/>'
        )
        svg.append(f'<circle class="{css}" cx="{at(value):.1f}" cy="{y}" r="5"/>')
        svg.append(f'<text class="value {css}" x="{left + width + 12}" y="{y + 4:.1f}">{signed(value)}</text>')
        if paper is not None:
            x = at(paper)
            points = f"{x - 6:.1f},{y} {x:.1f},{y - 6} {x + 6:.1f},{y} {x:.1f},{y + 6}"
            svg.append(f'<polygon class="hollow" points="{points}"/>')
    return svg


def short(name: str, most: int = 40) -> str:
    """A name with its end cut off where it is too long for a chart."""
    return name if len(name) <= most else name[: most - 1] + "…"


def learning(curves: Sequence[Sequence[Sequence[Point]]], low: float, high: float, last: float) -> str:
    """One row's curves: a line a seed and stage in the stage's colour, over epochs 0 … `last`, from `low` to `high`.

    Epochs below `low`, the steep beginning, are left out.
    """
    left, width, height = 36, 260, 140

    def at(point: Point) -> str:
        y = height - height * (point[1] - low) / (high - low)
        return f"{left + width * point[0] / (last or 1):.1f},{y:.1f}"

    svg = [f'<svg viewBox="0 -6 {left + width + 8} {height + 28}" role="img">']
    for tick in ticks(low, high):
        y = height - height * (tick - low) / (high - low)
        svg.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}"/>')
        svg.append(
            f'<text class="tick" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{f"{tick:g}".lstrip("0")}</text>'
        )
    for tick in ticks(0, last):
        if tick == int(tick):
            x = left + width * tick / (last or 1)
            svg.append(f'<text class="tick" x="{x:.1f}" y="{height + 16}" text-anchor="middle">{tick:g}</text>')
    for stages in curves:
        for number, points in enumerate(stages):
            seen = [point for point in points if point[1] >= low]
            svg.append(f'<polyline class="line s{number % 5}" points="{" ".join(map(at, seen))}"/>')
            if number and seen:
                cx, cy = at(seen[0]).split(",")
                svg.append(f'<circle class="s{number % 5}" cx="{cx}" cy="{cy}" r="3.5"/>')
    return "".join([*svg, "</svg>"])
