"""The trade-off of two metrics as inline SVG: a point a row, with its intervals and its name beside it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from mercato.reports.charts import ticks
from mercato.reports.study_charts import short

Span = tuple[float, float, float]  # low, mean, high
Point = tuple[float, float]
Line = tuple[Point, Point]
Box = tuple[float, float, float, float]  # left, top, right, bottom

LEFT, TOP, WIDTH, HEIGHT = 56, 24, 820, 420  # of the plot
RIGHT, BOTTOM = LEFT + WIDTH, TOP + HEIGHT
CHARACTER, LETTERS = 7.0, 16.0  # about as wide and as high as names are set


@dataclass(frozen=True)
class Place:
    """One row."""

    name: str
    x: Span
    y: Span


def tradeoff(rows: Sequence[Place], x_label: str, y_label: str, *, connected: bool = False) -> str:
    """The chart; `connected` draws a line through the rows in their order."""
    x_low, x_high = _range([row.x for row in rows])
    y_low, y_high = _range([row.y for row in rows])

    def at(x: float, y: float) -> Point:
        return LEFT + WIDTH * (x - x_low) / (x_high - x_low), BOTTOM - HEIGHT * (y - y_low) / (y_high - y_low)

    svg = [f'<svg viewBox="0 0 {RIGHT + 12} {BOTTOM + 44}" role="img" class="tradeoff">']
    for value, label in _labelled(y_low, y_high):
        y = at(x_low, value)[1]
        svg.append(f'<line class="grid" x1="{LEFT}" y1="{y:.1f}" x2="{RIGHT}" y2="{y:.1f}"/>')
        svg.append(f'<text class="tick" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{label}</text>')
    for value, label in _labelled(x_low, x_high):
        x = at(value, y_low)[0]
        svg.append(f'<line class="grid" x1="{x:.1f}" y1="{TOP}" x2="{x:.1f}" y2="{BOTTOM}"/>')
        svg.append(f'<text class="tick" x="{x:.1f}" y="{BOTTOM + 18}" text-anchor="middle">{label}</text>')
    svg.append(f'<text class="axis" x="{RIGHT}" y="{BOTTOM + 38}" text-anchor="end">{escape(x_label)} →</text>')
    svg.append(f'<text class="axis" x="{LEFT}" y="12">↑ {escape(y_label)}</text>')

    points = [at(row.x[1], row.y[1]) for row in rows]
    curve = list(pairwise(points)) if connected else []
    bars = [bar for row in rows for bar in _bars(row, at)]
    if curve:
        svg.append(f'<polyline class="line s1" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in points)}"/>')
    for (x1, y1), (x2, y2) in bars:
        svg.append(f'<line class="whisker s0" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>')
    svg += [f'<circle class="s0" cx="{x:.1f}" cy="{y:.1f}" r="5"/>' for x, y in points]
    names = [short(row.name) for row in rows]
    for name, (x, y) in zip(names, _beside(points, names, [*curve, *bars]), strict=True):
        svg.append(f'<text class="name halo" x="{x:.1f}" y="{y:.1f}">{escape(name)}</text>')
    return "".join([*svg, "</svg>"])


def _bars(row: Place, at: Callable[[float, float], Point]) -> list[Line]:
    """The two intervals, where there are any (one seed has none)."""
    (left, x, right), (low, y, high) = row.x, row.y
    found = ((at(left, y), at(right, y)), (at(x, low), at(x, high)))
    return [(one, other) for one, other in found if one != other]


def _range(spans: Sequence[Span]) -> tuple[float, float]:
    low, high = min(low for low, _, _ in spans), max(high for _, _, high in spans)
    margin = (high - low) * 0.06 or 0.01
    return low - margin, high + margin


def _labelled(low: float, high: float) -> list[tuple[float, str]]:
    """Ticks, all with as many decimals: .89, .90."""
    found = ticks(low, high)
    places = max((len(f"{tick:g}".partition(".")[2]) for tick in found), default=0)
    return [(tick, f"{tick:.{places}f}".removeprefix("0") or "0") for tick in found]


def _beside(points: Sequence[Point], names: Sequence[str], lines: Sequence[Line]) -> list[Point]:
    """Where each name begins (left end, baseline): close to its point, where it covers least of all else."""
    taken: list[Box] = [(x - 7, y - 7, x + 7, y + 7) for x, y in points]
    for (x1, y1), (x2, y2) in lines:
        steps = max(1, round(max(abs(x2 - x1), abs(y2 - y1)) / 6))
        along = [(x1 + (x2 - x1) * step / steps, y1 + (y2 - y1) * step / steps) for step in range(steps + 1)]
        taken += [(x - 3, y - 3, x + 3, y + 3) for x, y in along]
    found = []
    for (x, y), name in zip(points, names, strict=True):
        width = CHARACTER * len(name)
        lefts = (x + 8, x - 8 - width, x - width / 2)
        tops = (y - LETTERS - 6, y + 6, y - LETTERS / 2, y - 2 * LETTERS - 6, y + LETTERS + 6)
        spots = [(left, top, left + width, top + LETTERS) for top in tops for left in lefts]
        best = min(spots, key=lambda spot: sum(_overlap(spot, other) for other in taken) + 10 * _outside(spot))
        taken.append(best)
        found.append((best[0], best[3] - 4))
    return found


def _overlap(one: Box, other: Box) -> float:
    wide, high = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    return max(0.0, wide) * max(0.0, high)


def _outside(box: Box) -> float:
    """The area of a box that lies beside the plot, or above or below it."""
    left, top, right, bottom = box
    wide = max(0.0, LEFT - left) + max(0.0, right - RIGHT)
    high = max(0.0, TOP - top) + max(0.0, bottom - BOTTOM)
    return wide * (bottom - top) + high * (right - left)
