"""The report's charts as inline SVG: colours come from the page's CSS, so that they follow light, dark and print."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape

Point = tuple[float, float]
Mark = tuple[str, float, Point | None]  # css class, value, interval


def dot_whisker(rows: Sequence[tuple[str, Sequence[Mark]]]) -> str:
    """Metrics, one band each: (metric, [(css class, value, interval)]), dots with whiskers over 0 … 1."""
    left, width, step = 224, 630, 16
    heights = [step * len(marks) + 16 for _, marks in rows]
    height = sum(heights) + 26
    svg = [f'<svg viewBox="0 0 {left + width + 64} {height}" role="img" class="whiskers">']
    for tick in range(0, 11, 2):
        x = left + width * tick / 10
        svg.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - 22}"/>')
        svg.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{tick / 10:.1f}</text>')
    top = 0
    for (metric, marks), band in zip(rows, heights, strict=True):
        svg.append(
            f'<text class="name" x="{left - 14}" y="{top + band / 2 + 4:.1f}" text-anchor="end">{escape(metric)}</text>'
        )
        for line, (css, value, interval) in enumerate(marks):
            y, x = top + 16 + line * step, left + width * value
            low, high = interval or (value, value)
            end = left + width * max(high, value)
            svg.append(f'<line class="whisker {css}" x1="{left + width * low:.1f}" y1="{y}" x2="{end:.1f}" y2="{y}"/>')
            svg.append(f'<circle class="{css}" cx="{x:.1f}" cy="{y}" r="{5 if line == 0 else 4}"/>')
            svg.append(f'<text class="value {css}" x="{end + 9:.1f}" y="{y + 4}">{decimal(value)}</text>')
        top += band
        svg.append(f'<line class="rule" x1="0" y1="{top}" x2="{left + width}" y2="{top}"/>')
    return "".join([*svg, "</svg>"])


def lines(
    series: Sequence[tuple[str, str, Sequence[Point]]],
    *,
    x_label: str,
    y_label: str = "",
    square: bool = False,
    whole_x: bool = False,
    from_zero: bool = False,
) -> str:
    """Line chart of (name, css class, points); `square` fixes both axes to 0 … 1 and draws the diagonal, `from_zero`
    begins the upward one at 0.
    """
    points = [point for _, _, line in series for point in line]
    if square:
        x_low, x_high, y_low, y_high = 0.0, 1.0, 0.0, 1.0
    else:
        x_low, x_high = min(x for x, _ in points), max(x for x, _ in points)
        y_low, y_high = min(y for _, y in points), max(y for _, y in points)
        margin = (y_high - y_low) * 0.08 or abs(y_high) * 0.1 or 0.1
        y_low, y_high = 0.0 if from_zero else y_low - margin, y_high + margin
    left, bottom, width, height = 46, 36, 424, 330 if square else 232
    spread = (x_high - x_low) or 1.0

    def at(x: float, y: float) -> tuple[float, float]:
        return left + width * (x - x_low) / spread, height - (height - 14) * (y - y_low) / (y_high - y_low)

    svg = [f'<svg viewBox="0 0 {left + width + 14} {height + bottom}" role="img">']
    for y_value in ticks(y_low, y_high):
        y = at(x_low, y_value)[1]
        svg.append(f'<line class="grid" x1="{left}" y1="{y:.1f}" x2="{left + width}" y2="{y:.1f}"/>')
        svg.append(f'<text class="tick" x="{left - 7}" y="{y + 4:.1f}" text-anchor="end">{y_value:g}</text>')
    svg += [_x_tick(at(x, y_low)[0], height, f"{x:g}") for x in ticks(x_low, x_high) if x == int(x) or not whole_x]
    if square:
        svg.append(f'<line class="diagonal" x1="{left}" y1="{height}" x2="{left + width}" y2="14"/>')
    for _, css, line in series:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (at(*point) for point in line))
        svg.append(f'<polyline class="line {css}" points="{path}"/>')
        if not square:
            svg += [f'<circle class="{css}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in (at(*p) for p in line)]
    svg.append(
        f'<text class="axis" x="{left + width / 2}" y="{height + 32}" text-anchor="middle">{escape(x_label)}</text>'
    )
    svg.append(f'<text class="axis" x="{left}" y="9">{escape(y_label)}</text>')
    return "".join([*svg, "</svg>"])


def histogram(edges: Sequence[float], ours: Sequence[float], theirs: Sequence[float], x_label: str) -> str:
    """Two distributions over the same bins, drawn over each other."""
    left, bottom, width, height = 14, 36, 456, 330
    most = max([*ours, *theirs]) or 1.0
    span = (edges[-1] - edges[0]) or 1.0
    svg = [f'<svg viewBox="0 0 {left + width + 14} {height + bottom}" role="img">']
    for css, shares in (("irrelevant", theirs), ("relevant", ours)):
        outline = [f"{left},{height}"]
        for share, low, high in zip(shares, edges[:-1], edges[1:], strict=True):
            y = height - (height - 14) * share / most
            outline += [f"{left + width * (edge - edges[0]) / span:.1f},{y:.1f}" for edge in (low, high)]
        outline.append(f"{left + width},{height}")
        svg.append(f'<polygon class="area {css}" points="{" ".join(outline)}"/>')
    svg.append(f'<line class="rule" x1="{left}" y1="{height}" x2="{left + width}" y2="{height}"/>')
    marks = ticks(edges[0], edges[-1])
    svg += [_x_tick(left + width * (tick - edges[0]) / span, height, f"{tick:g}") for tick in marks]
    svg.append(
        f'<text class="axis" x="{left + width / 2}" y="{height + 32}" text-anchor="middle">{escape(x_label)}</text>'
    )
    return "".join([*svg, "</svg>"])


def stacked(rows: Sequence[tuple[str, Sequence[tuple[str, float]]]], unit: str) -> str:
    """Bars of (css class, length) parts end to end, one a (name, parts); the whole length is written at its end."""
    left, width, step = 224, 620, 30
    most = max(sum(length for _, length in parts) for _, parts in rows) or 1.0
    height = step * len(rows) + 26
    svg = [f'<svg viewBox="0 0 {left + width + 74} {height}" role="img" class="whiskers">']
    for tick in ticks(0, most):
        x = left + width * tick / most
        svg.append(f'<line class="grid" x1="{x:.1f}" y1="0" x2="{x:.1f}" y2="{height - 22}"/>')
        svg.append(f'<text class="tick" x="{x:.1f}" y="{height - 6}" text-anchor="middle">{tick:g}</text>')
    for line, (name, parts) in enumerate(rows):
        y, x = step * line, float(left)
        svg.append(f'<text class="name" x="{left - 14}" y="{y + 19}" text-anchor="end">{escape(name)}</text>')
        for css, length in parts:
            svg.append(
                f'<rect class="bar {css}" x="{x:.1f}" y="{y + 5}" width="{width * length / most:.1f}" height="18"/>'
            )
            x += width * length / most
        whole = sum(length for _, length in parts)
        svg.append(f'<text class="value" x="{x + 8:.1f}" y="{y + 19}">{whole:.1f} {escape(unit)}</text>')
    return "".join([*svg, "</svg>"])


def decimal(value: float) -> str:
    """Three decimals, without the leading zero: .732, 1.000, -.012."""
    return f"{value:.3f}".replace("0.", ".", 1) if abs(value) < 0.9995 else f"{value:.3f}"


def ticks(low: float, high: float) -> list[float]:
    """Round numbers within the range, five or so."""
    rough = (high - low) / 5 or 1.0
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= rough * 0.999)
    return [round(step * n, 10) for n in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def _x_tick(x: float, height: float, label: str) -> str:
    return f'<text class="tick" x="{x:.1f}" y="{height + 15}" text-anchor="middle">{label}</text>'
