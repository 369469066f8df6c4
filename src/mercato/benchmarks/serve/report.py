"""The report of `mercato bench serve`: outcomes to figures, figures against the budget, both as tables."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from rich.console import Group
from rich.table import Table

from mercato.benchmarks.serve.load import Outcome
from mercato.benchmarks.serve.parts import PARTS, READ, WRITE
from mercato.benchmarks.serve.traffic import FILTERS, NEW, PAGES, QUERIES, UPSERT

PHASES = ONE, MANY, OPEN, BESIDE = "one client", "four clients", "open loop", "with upserts"
ALL = "all searches"
KINDS = (ALL, *QUERIES, *FILTERS, *PAGES, UPSERT)

VERDICTS = {True: "met", False: "NOT met", None: "–"}

_ENDS = (ALL, QUERIES[-1], [*FILTERS][-1], PAGES[-1])  # of the table's sections
_LARGE = 500_000  # products from which on the budget is that of a million


@dataclass(frozen=True)
class Phase:
    """What became of a phase's requests, and its rate: what a closed loop came to, or an open one was to do."""

    outcomes: Sequence[Outcome]
    per_s: float


def measurements(phases: Mapping[str, Phase], searches: Sequence[Mapping[str, float]]) -> dict[str, Any]:
    """The figures of the phases, of the searches in process (the milliseconds of their parts), and what HTTP adds.

    A part is the mean of the middle half of these searches, ordered by their time. What HTTP adds is what is left of
    one client's latency without the time that the server says the search took, less what it takes to read the request
    and to write the answer: all of one request, however busy the machine was then.
    """
    whole = sorted(searches, key=lambda parts: sum(parts.values()))
    middle = whole[len(whole) // 4 : max(1, len(whole) * 3 // 4)]
    parts = {part: round(float(np.mean([each[part] for each in middle])), 4) for part in PARTS}
    alike = [each for each in phases[ONE].outcomes if NEW in each.kind and PAGES[0] in each.kind]
    found = [each.found for each in phases[BESIDE].outcomes if each.found is not None]
    shell = float(np.median([each.seconds - each.took for each in alike])) * 1000
    seen = [each for each in found if math.isfinite(each)]
    due = [each for name in (OPEN, BESIDE) for each in phases[name].outcomes if each.answer != "no page"]
    return {
        "capacity_per_s": round(phases[MANY].per_s, 1),
        "rate_per_s": round(phases[OPEN].per_s, 1),
        "generator_late": _percentiles([each.late for each in due]),
        "upsert_found": {"sought": len(found), "found": len(seen), **_percentiles(seen)},
        "rows": [row for name, phase in phases.items() for row in _rows(name, phase.outcomes)],
        "in_process": _percentiles([sum(each.values()) / 1000 for each in whole]),
        "parts_ms": {**parts, "HTTP": round(shell - parts[READ] - parts[WRITE], 3)},
    }


def budget(report: Mapping[str, Any]) -> dict[str, Any]:
    """The rows of the budget, and whether all are met; `met` is None where nothing was measured."""
    open_, one, memory, ranked = row(report, OPEN), row(report, ONE), report["memory"], report["ranked"]
    rows = [
        ("p99 at 70 % of capacity, ms", open_["p99_ms"], "≤", 30.0 if report["products"] >= _LARGE else 15.0),
        ("of these refused or failed", open_["refused"] + open_["failed"], "≤", 0.0),
    ]
    if report["products"] < _LARGE:
        rows += [
            ("searches/s, four clients", report["capacity_per_s"], "≥", 200.0 if ranked else 300.0),
            ("in process, one thread, p99 ms", report["in_process"]["p99_ms"], "≤", 12.0 if ranked else 4.0),
            ("one client, p50 ms", one["p50_ms"], "≤", 4.0),
            ("memory (PSS), MB", memory and memory["pss_mb"], "≤", 400.0),
            ("cold start, s", report["start_s"], "≤", 5.0),
        ]
    rows.append(("upsert acknowledged → found, p99 ms", report["upsert_found"]["p99_ms"], "≤", 1000.0))
    lines = [
        {"what": what, "value": value, "bound": f"{sign} {bound:g}", "met": _met(value, sign, bound)}
        for what, value, sign, bound in rows
    ]
    return {"budget": lines, "met": all(line["met"] for line in lines)}


def row(report: Mapping[str, Any], phase: str, kind: str = ALL) -> dict[str, Any]:
    """A report's row of a phase and a kind; empty where the phase had none of that kind."""
    return next((each for each in report["rows"] if (each["phase"], each["kind"]) == (phase, kind)), {})


def facts(report: Mapping[str, Any]) -> list[str]:
    """What the figures were measured on and with, a line each."""
    machine, built, memory, late = report["machine"], report["built"], report["memory"], report["generator_late"]
    inner = report["in_process"]
    weighs = (
        f"memory {memory['pss_mb']:,.0f} MB (PSS; {memory['pss_anonymous_mb']:,.0f} of it backed by no file; RSS"
        f" {memory['rss_mb']:,.0f})"
        if memory
        else "memory not told by this system"
    )
    found = report["upsert_found"]
    return [
        f"{report['products']:,} products, {'ranked' if report['ranked'] else 'not ranked'}, workers:"
        f" {report['workers']} · {machine['cores']} × {machine['cpu']}, load"
        f" {machine['load']:.1f} · {report['date'][:10]}, {report['seconds']:g} s a phase",
        f"in process, one thread, a new query's first page: {_ms(inner['p50_ms'])} (p50), {_ms(inner['p99_ms'])} (p99)"
        " ms",
        f"four clients: {report['capacity_per_s']:.0f} searches/s; open loop at {report['rate_per_s']:.0f}/s",
        f"an upsert was found {_ms(found['p50_ms'])} (p50), {_ms(found['p99_ms'])} (p99) ms after it was acknowledged"
        f" ({found['found']} of {found['sought']} sought)",
        f"cold start {report['start_s']:.1f} s; {weighs}",
        f"index: {built['per_s']:,.0f} products/s embedded and indexed, {built['seconds']:,.0f} s in all,"
        f" {built['disk_mb']:,.0f} MB on disk ({built['date'][:10]}, {built['machine']})",
        f"the generator alone does {report['generator_per_s']:,.0f} requests/s; it was late by {_ms(late['p50_ms'])}"
        f" (p50), {_ms(late['p99_ms'])} (p99) ms, which its latencies include",
    ]


def table(report: Mapping[str, Any]) -> Group:
    """Lay a report out for people, within 80 columns; the page has the rest."""
    phases = {"one": ONE, "open": OPEN, "busy": BESIDE}
    legend = "one: one client; open: open loop; busy: the same beside upserts; left: products, by the filters"
    caption = [legend, *facts(report)]
    latencies = Table(title="Searches over HTTP, milliseconds", caption="\n".join(caption), caption_justify="left")
    latencies.add_column("", no_wrap=True)
    latencies.add_column("left", justify="right")
    for name in phases:
        for percentile in ("p50", "p99"):
            latencies.add_column(f"{name}\n{percentile}", justify="right")
    latencies.add_column("lost", justify="right")
    for kind in KINDS:
        rows = [row(report, phase, kind) for phase in phases.values()]
        left = rows[1].get("products_left")
        spent = [_ms(each.get(name)) for each in rows for name in ("p50_ms", "p99_ms")]
        lost = sum(each["refused"] + each["failed"] for each in rows if each)
        cells = [kind, "–" if left is None else f"{left:,.0f}", *spent, str(lost)]
        latencies.add_row(*cells, end_section=kind in _ENDS)
    parts = Table("part", "ms", title="A new query's first page, by part")
    for part, spent in report["parts_ms"].items():
        parts.add_row(part, f"{spent:.2f}")
    bounds = Table("budget", "measured", "bound", "", title="Budget")
    for line in report["budget"]:
        bounds.add_row(line["what"], _ms(line["value"]), line["bound"], VERDICTS[line["met"]])
    return Group(latencies, parts, bounds)


def _rows(phase: str, outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    rows = []
    for kind in KINDS:
        own = [each for each in outcomes if kind in each.kind or (kind == ALL and UPSERT not in each.kind)]
        if own:
            answers = Counter(each.answer for each in own)
            totals = [each.total for each in own if each.total is not None]
            rows.append(
                {
                    "phase": phase,
                    "kind": kind,
                    "asked": len(own),
                    "answered": answers["answered"],
                    "refused": answers["refused"],
                    "failed": answers["failed"],
                    "no_page": answers["no page"],
                    **_percentiles(_latencies(own)),
                    "products_left": float(np.median(totals)) if totals else None,
                }
            )
    return rows


def _latencies(outcomes: Sequence[Outcome]) -> list[float]:
    return [each.seconds for each in outcomes if each.answer == "answered"]  # a refusal is quick and no answer


def _percentiles(seconds: list[float]) -> dict[str, float | None]:
    """In milliseconds; None of nothing."""
    return {
        f"p{percent}_ms": round(float(np.percentile(seconds, percent)) * 1000, 3) if seconds else None
        for percent in (50, 95, 99)
    }


def _met(value: float | None, sign: str, bound: float) -> bool | None:
    return None if value is None else value <= bound if sign == "≤" else value >= bound


def _ms(value: float | None) -> str:
    return "–" if value is None else f"{value:,.0f}" if value >= 100 else f"{value:.1f}"
