"""The scatter of a tuning report as inline SVG: settings as dots, the few that matter by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mercato.reports.charts import decimal, ticks

LEFT, TOP, WIDTH, HEIGHT = 46, 16, 424, 250


@dataclass(frozen=True)
class Dot:
    """One setting."""

    x: float
    y: float
    css: str
    title: str  # is shown where the pointer rests on it
    name: str  # is written beside it; empty for most


def scatter(dots: Sequence[Dot], x_label: str, y_label: str) -> str:
    """The chart; dots with a name lie on top."""
    x_low, x_high = _range([dot.x for dot in dots])
    y_low, y_high = _range([dot.y for dot in dots])
    bottom, right = TOP + HEIGHT, LEFT + WIDTH

    def at(x: float, y: float) -> tuple[float, float]:
        return LEFT + WIDTH * (x - x_low) / (x_high - x_low), bottom - HEIGHT * (y - y_low) / (y_high - y_low)

    svg = [f'<svg viewBox="0 0 {right + 14} {bottom + 38}" role="img" class="scatter">']
    for value in ticks(y_low, y_high):
        y = at(x_low, value)[1]
        svg.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{right}" y2="{y:.1f}"/>')
        svg.append(f'<text class="tick" x="{LEFT - 7}" y="{y + 4:.1f}" text-anchor="end">{decimal(value)}</text>')
    for value in ticks(x_low, x_high):
        x = at(value, y_low)[0]
        svg.append(f'<text class="tick" x="{x:.1f}" y="{bottom + 16}" text-anchor="middle">{value:g}</text>')
    svg.append(f'<text class="axis" x="{right}" y="{bottom + 33}" text-anchor="end">{escape(x_label)} →</text>')
    svg.append(f'<text class="axis" x="{LEFT}" y="10">↑ {escape(y_label)}</text>')
    for dot in sorted(dots, key=lambda dot: (bool(dot.name), dot.css != "s2")):
        x, y = at(dot.x, dot.y)
        svg.append(
            f'<circle class="{dot.css}" cx="{x:.1f}" cy="{y:.1f}" r="{6 if dot.name else 4.5}"><title>'
            f"{escape(dot.title)}: {decimal(dot.y)}, {dot.x:.2f} ms</title></circle>"
        )
        if dot.name:
            far = x > LEFT + 0.75 * WIDTH
            place = f'x="{x - 10:.1f}" text-anchor="end"' if far else f'x="{x + 10:.1f}"'
            svg.append(f'<text class="name halo" {place} y="{y + 4:.1f}">{escape(dot.name)}</text>')
    return "".join([*svg, "</svg>"])


def _range(values: Sequence[float]) -> tuple[float, float]:
    low, high = min(values), max(values)
    margin = (high - low) * 0.06 or abs(high) * 0.1 or 0.1
    return low - margin, high + margin
