"""What the HTML reports share: one self-contained page, today's date, a legend, signed figures and shares."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from html import escape
from importlib.resources import files

from mercato.reports.charts import decimal


def document(title: str, sections: Sequence[str], style: str = "") -> str:
    """A whole page; it needs nothing beside it, and follows light, dark and print. `style` is more CSS."""
    css = files("mercato.reports").joinpath("report.css").read_text() + style
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><style>{css}</style></head>'
        f"<body><main>{''.join(sections)}</main></body></html>\n"
    )


def today() -> str:
    """The day in UTC: 3 May 2026."""
    return datetime.now(UTC).strftime("%d %B %Y").lstrip("0")


def legend(entries: Sequence[tuple[str, str]]) -> str:
    """Names with their colour classes."""
    marks = "".join(f'<span class="{css}"><i></i><b>{escape(name)}</b></span>' for name, css in entries)
    return f'<div class="legend">{marks}</div>'


def signed(value: float) -> str:
    """A difference with its sign, three decimals: +.021, −.007, .000."""
    sign = "" if abs(value) < 0.0005 else "+" if value > 0 else "−"
    return sign + decimal(abs(value))


def percent(share: float | None) -> str:
    """A share: 55%, 1.5%, or – where there is none."""
    return "–" if share is None else f"{share:.1%}" if share < 0.1 else f"{share:.0%}"
