"""A study's table as text: the cells that every form of it shows, and the table as Markdown and on a terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group
from rich.markup import escape
from rich.table import Table as RichTable

from mercato.experiments.ablation.table import MetricResult, Step, Table, TableRow

VERDICTS = {"agrees": "✓", "disagrees": "✗", "unsure": "≈"}
SIGNS = "Paper: its figure, and its step where it has one; ✓ the paper's sign, ✗ the other sign"
ABREAST = 3  # metrics side by side on a terminal


# --- cells


def cell(row: TableRow, table: Table, metric: str) -> list[str]:
    """One metric of one row, a line each: our mean, the step with its mark, its interval, what the paper has."""
    result, lines = row.metrics[metric], [with_spread(row.metrics[metric])]
    if result.step:
        step, _, interval = our_step(result).partition(" [")
        lines += [f"{step} {mark(result.step)}".rstrip(), f"[{interval}"]
    theirs = paper_step(result, row.paper_note if metric == _noted(table) else None)
    figures = [*([] if result.paper is None else [figure(result.paper)]), *([theirs] if theirs else [])]
    return [*lines, f"paper {', '.join(figures)}"] if figures else lines


def mark(step: Step) -> str:
    """✓, ✗ or ≈; nothing where a step is sure and the paper has no sign."""
    return VERDICTS[step.verdict] if step.verdict else "" if step.sure else VERDICTS["unsure"]


def _noted(table: Table) -> str:
    """The metric that the paper's words are about: the first with figures of the paper, else the first."""
    return next(iter(of_paper(table)), table.metrics[0])


def of_paper(table: Table) -> list[str]:
    """The metrics of which the paper has figures."""
    return [metric for metric in table.metrics if any(_has_paper(row.metrics[metric]) for row in table.rows)]


def _has_paper(result: MetricResult) -> bool:
    return result.paper is not None or (result.step is not None and result.step.paper_relative is not None)


def with_spread(result: MetricResult) -> str:
    """The mean over seeds and its half-width: .8941 ± .0047."""
    return figure(result.mean) + ("" if result.half_width is None else f" ± {figure(result.half_width)}")


def our_step(result: MetricResult) -> str:
    """The difference to the row it starts from, with its interval: +.0398 [+.0075, +.0721]."""
    step = result.step
    if not step:
        return ""
    relative = "" if step.relative is None else f" ({step.relative:+.1f} %)".replace("-", "−")
    return f"{signed(step.value)}{relative} [{signed(step.interval[0])}, {signed(step.interval[1])}]"


def paper_step(result: MetricResult, note: str | None = None) -> str:
    """The paper's own change, or its words."""
    step = result.step
    if step and step.paper is not None:
        return signed(step.paper)
    if step and step.paper_relative is not None:
        return f"{step.paper_relative:+g} %".replace("-", "−") + (f" {note}" if note else "")
    return note or ""


def training_cost(row: TableRow) -> str:
    """What training took: 175 s, 8 epochs."""
    return f"{row.training.seconds:.0f}\u00a0s, {row.training.epochs:.0f}\u00a0epochs"


def figure(value: float) -> str:
    """Four decimals, without the leading zero: .7456."""
    text = f"{value:.4f}"
    return text[1:] if text.startswith("0.") else text


def signed(value: float) -> str:
    """A difference, always with its sign: +.0021, −.0007."""
    return ("−" if value < 0 else "+") + figure(abs(value))


# --- sentences


def score(table: Table) -> str:
    """How many steps came out as the paper has them, a sentence for each metric."""
    sentences = []
    for metric in table.metrics:
        steps = [row.metrics[metric].step for row in table.rows]
        verdicts = [step.verdict for step in steps if step and step.verdict]
        if verdicts:
            agree, against, unsure = (verdicts.count(kind) for kind in VERDICTS)
            begin = f"{metric}: of" if len(table.metrics) > 1 else "Of"
            sentences.append(
                f"{begin} {len(verdicts)} steps with a sign in the paper, {agree} have it here beyond chance,"
                f" {against} have the other, and {unsure} cannot be told from 0."
            )
    return " ".join(sentences)


def source(table: Table) -> str:
    """Counts, market, recipes and seeds, in one line."""
    counts = [f"{part}: {n.queries:,} queries, {n.pairs:,} pairs" for part, n in table.n.items()]
    recipes = dict.fromkeys([table.recipe, *(row.recipe for row in table.rows if row.recipe)])
    return (
        f"{'; '.join(counts)}; on {table.market['name']} ({table.market['fingerprint']});"
        f" {'recipe' if len(recipes) == 1 else 'recipes'} {', '.join(recipes)},"
        f" seeds {', '.join(map(str, table.seeds))}"
    )


def caption(table: Table) -> str:
    """What was measured on what, and what the marks mean."""
    return f"{source(table)}. {table.method}" + (f" {SIGNS}." if of_paper(table) else "")


def made(table: Table) -> str:
    """Which Mercato measured, and when."""
    if not table.measured:
        return ""
    first, last = table.measured[0], table.measured[-1]
    days = first if first == last else f"{first} to {last}"
    return f"Measured by Mercato {', '.join(table.mercato)}, {days}"


# --- whole tables


def markdown(table: Table) -> str:
    """The table as GitHub shows it."""
    head = ["row", *table.metrics, "training"]
    body = [
        [row.name, *("<br>".join(cell(row, table, metric)) for metric in table.metrics), training_cost(row)]
        for row in table.rows
    ]
    aligned = [":--", *("--:" for _ in head[1:])]
    lines = [head, aligned, *([text.replace("|", "\\|") for text in line] for line in body)]
    reference = f" ({table.reference})" if table.reference else ""
    paragraphs = (
        f"# {table.title}{reference}",
        f"{table.note} {score(table)}".strip(),
        "\n".join("| " + " | ".join(line) + " |" for line in lines),
        f"{caption(table)} {made(table)}".strip(),
    )
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def terminal(table: Table) -> Group:
    """The table for a person at a terminal, which is narrow: a few metrics side by side, then the next."""
    blocks = [table.metrics[start : start + ABREAST] for start in range(0, len(table.metrics), ABREAST)]
    grids = [_grid(table, metrics) for metrics in blocks]
    grids[0].title, grids[-1].caption = escape(table.title), escape(caption(table))
    return Group(*grids)


def _grid(table: Table, metrics: Sequence[str]) -> RichTable:
    grid = RichTable()
    grid.add_column(min_width=12, overflow="fold")
    for metric in metrics:
        grid.add_column(escape(metric.replace(".", "\n.", 1)), justify="right", overflow="fold")
    for row in table.rows:
        grid.add_row(escape(row.name), *(escape("\n".join(cell(row, table, metric))) for metric in metrics))
    return grid
