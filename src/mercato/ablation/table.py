"""Measured runs → the table: one object, as JSON, as Markdown and on the terminal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.markup import escape
from rich.table import Table as RichTable

from mercato.ablation.runs import MEASURES, REPLICATES
from mercato.ablation.statistics import difference, seed_half_width
from mercato.ablation.study import Study
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.evaluation.arrays import FloatArray

Tree = dict[str, Any]

OTHER_MARKET = (
    "The paper's figures are of another market, with other raters and other queries: only the order of the rows and the"
    " signs of the steps compare."
)
VERDICTS = {"agrees": "✓", "disagrees": "✗", "unsure": "≈"}
KEY = "✓ the paper's sign, ✗ the other sign, ≈ our interval holds 0"


def method(study: Study) -> str:
    """What the ± and the brackets of a table mean."""
    seeds = len(study.seeds)
    step = "Step: the difference to the row that a row starts from, paired by seed and by query"
    if seeds == 1:
        return (
            f"One seed: no ± over seeds. {step}; its 95 % interval covers the choice of queries only (bootstrap), not"
            " that of the seed."
        )
    return (
        f"±: 95 % t interval over {seeds} seeds. {step}; the half-width of its 95 % interval is"
        " √((t·s_d/√n)² + (1.96·se_q)²), with s_d the deviation of the differences over the n seeds and se_q the"
        " bootstrap standard error over queries of their mean."
    )


def build(study: Study, market: Market, fingerprint: str, runs: Sequence[Sequence[Path]]) -> Tree:
    """The whole table as JSON data.

    Args:
        study: its rows and seeds.
        market: what the runs were trained and measured on.
        fingerprint: the market's.
        runs: the measured run of each row and seed, (rows, seeds).

    Raises:
        MercatoError: the market does not allow the study's metric, or a run's figures cannot be read.
    """
    measured = [[_read(run, study.metric) for run in row] for row in runs]
    values_NS = np.array([[figures for _, figures, _ in row] for row in measured])
    replicates_NSR = np.array([[replicates for _, _, replicates in row] for row in measured])
    rows = []
    for number, (row, parent) in enumerate(zip(study.rows, study.parents, strict=True)):
        measures = [content for content, _, _ in measured[number]]
        rows.append(
            {
                "name": row.name,
                "from": None if parent is None else study.rows[parent].name,
                "set": list(row.changes),
                "paper": row.paper,
                "paper_note": row.paper_note or None,
                "mean": float(values_NS[number].mean()),
                "half_width": seed_half_width(values_NS[number]),
                "values": values_NS[number].tolist(),
                "step": None if parent is None else _step(study, number, parent, values_NS, replicates_NSR),
                "figures": _means([content["figures"] for content in measures]),
                "training": {
                    field: _mean([content["training"][field] for content in measures])
                    for field in ("seconds", "epochs", "validation_roc_auc")
                },
                "curves": [content["training"]["curve"] for content in measures],
                "runs": [run.name for run in runs[number]],
            }
        )
    return {
        "name": study.name,
        "title": study.title,
        "reference": study.reference,
        "recipe": study.recipe,
        "set": list(study.changes),
        "metric": study.metric,
        "seeds": list(study.seeds),
        "market": {"name": market.config.name, "fingerprint": fingerprint},
        "n": measured[0][0][0]["n"][study.metric.partition(".")[0]],
        "note": OTHER_MARKET,
        "method": method(study),
        "mercato": _distinct(measured, "mercato"),  # versions of the code
        "measured": _distinct(measured, "measured"),  # days, UTC
        "rows": rows,
    }


def _read(run: Path, metric: str) -> tuple[Tree, float, FloatArray]:
    content: Tree = json.loads((run / MEASURES).read_text())
    part, _, name = metric.partition(".")
    figures = content["figures"]
    if name not in figures.get(part, {}):
        known = ", ".join(f"{some}.{each}" for some, tree in figures.items() for each in tree)
        raise MercatoError(f"metric: {metric} cannot be measured on this market; it allows {known}")
    with np.load(run / REPLICATES) as replicates:
        return content, figures[part][name], replicates[metric]


def _distinct(measured: Sequence[Sequence[tuple[Tree, float, FloatArray]]], field: str) -> list[str]:
    return sorted({content[field] for row in measured for content, _, _ in row if field in content})


def _step(study: Study, number: int, parent: int, values_NS: FloatArray, replicates_NSR: FloatArray) -> Tree:
    found = difference(values_NS[number], values_NS[parent], replicates_NSR[number], replicates_NSR[parent])
    row, above = study.rows[number], study.rows[parent]
    paper = row.paper - above.paper if row.paper is not None and above.paper is not None else None
    low, high = found.interval
    sign = row.paper_relative if paper is None else paper
    verdict = None
    if sign:  # a step of 0 in the paper has none
        verdict = "unsure" if low <= 0 <= high else "agrees" if found.value * sign > 0 else "disagrees"
    start = float(values_NS[parent].mean())
    return {
        "value": found.value,
        "interval": [low, high],
        "half_width_seeds": found.seeds,
        "half_width_queries": found.queries,
        "relative": 100 * found.value / start if row.paper_relative is not None and start else None,  # percent
        "paper": None if paper is None else round(paper, 6),
        "paper_relative": row.paper_relative,  # percent
        "verdict": verdict,
    }


def _means(figures: Sequence[Mapping[str, Mapping[str, float]]]) -> Tree:
    shared = {
        part: [m for m in tree if all(m in other.get(part, {}) for other in figures)]
        for part, tree in figures[0].items()
    }
    return {
        part: {metric: _mean([tree[part][metric] for tree in figures]) for metric in metrics}
        for part, metrics in shared.items()
    }


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None


# --- as text


COLUMNS = ("", "paper", "ours", "paper's step", "our step [95 %]", "", "training")


def cells(row: Tree) -> tuple[str, ...]:
    """One row's text under `COLUMNS`; the same in Markdown, HTML and on the terminal."""
    step = row["step"] or {}
    spread = "" if row["half_width"] is None else f" ± {figure(row['half_width'])}"
    ours = ""
    if step:
        relative = "" if step["relative"] is None else f" ({step['relative']:+.1f} %)".replace("-", "−")
        ours = f"{signed(step['value'])}{relative} [{signed(step['interval'][0])}, {signed(step['interval'][1])}]"
    return (
        row["name"],
        "–" if row["paper"] is None else figure(row["paper"]),
        figure(row["mean"]) + spread,
        paper_step(row),
        ours,
        VERDICTS.get(step.get("verdict") or "", ""),
        f"{row['training']['seconds']:.0f} s, {row['training']['epochs']:.0f} epochs",
    )


def paper_step(row: Tree) -> str:
    """The paper's own change, or its words."""
    step = row["step"] or {}
    if step.get("paper") is not None:
        return signed(step["paper"])
    if step.get("paper_relative") is not None:
        return f"{step['paper_relative']:+g} %".replace("-", "−") + (
            f" {row['paper_note']}" if row["paper_note"] else ""
        )
    return row["paper_note"] or ""


def figure(value: float) -> str:
    """Four decimals, without the leading zero: .7456."""
    text = f"{value:.4f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float) -> str:
    """A difference, always with its sign: +.0021, −.0007."""
    return ("−" if value < 0 else "+") + figure(abs(value))


def score(table: Tree) -> str:
    """How many steps came out as the paper has them, in one sentence."""
    verdicts = [row["step"]["verdict"] for row in table["rows"] if row["step"] and row["step"]["verdict"]]
    if not verdicts:
        return ""
    agree, against, unsure = (verdicts.count(kind) for kind in VERDICTS)
    return (
        f"Of {len(verdicts)} steps with a sign in the paper, {agree} have it here beyond chance, {against} have the"
        f" other, and {unsure} cannot be told from 0."
    )


def source(table: Tree) -> str:
    """Metric, market, seeds and counts, in one line."""
    return (
        f"{table['metric']} on {table['market']['name']} ({table['market']['fingerprint']}):"
        f" {table['n']['queries']:,} queries, {table['n']['pairs']:,} pairs; recipe {table['recipe']},"
        f" seeds {', '.join(map(str, table['seeds']))}"
    )


def made(table: Tree) -> str:
    """Which Mercato measured, and when."""
    if not table["measured"]:
        return ""
    first, last = table["measured"][0], table["measured"][-1]
    days = first if first == last else f"{first} to {last}"
    return f"Measured by Mercato {', '.join(table['mercato'])}, {days}"


def markdown(table: Tree) -> str:
    """The table as GitHub shows it."""
    header = [name or ("row" if not place else "sign") for place, name in enumerate(COLUMNS)]
    aligned = [":--", "--:", "--:", "--:", "--:", ":-:", "--:"]
    lines = [header, aligned, *(tuple(cell.replace("|", "\\|") for cell in cells(row)) for row in table["rows"])]
    reference = f" ({table['reference']})" if table["reference"] else ""
    return (
        "\n\n".join(
            text
            for text in (
                f"# {table['title']}{reference}",
                f"{table['note']} {score(table)}".strip(),
                "\n".join("| " + " | ".join(line) + " |" for line in lines),
                f"{source(table)}. {table['method']} {KEY}. {made(table)}".strip(),
            )
        )
        + "\n"
    )


def terminal(table: Tree) -> RichTable:
    """The table for a person at a terminal."""
    headers = COLUMNS[:-1]  # a terminal is narrow
    grid = RichTable(*headers, title=escape(table["title"]), caption=escape(f"{source(table)}. {table['method']}"))
    for column in grid.columns[1:]:
        column.justify = "right"
    for row in table["rows"]:
        grid.add_row(*map(escape, cells(row)[: len(headers)]))
    return grid
