"""A study's table as text: the cells that every form of it shows, and the table as Markdown and on a terminal."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table as RichTable

from mercato.experiments.ablation.table import MetricResult, Table, TableRow

VERDICTS = {"agrees": "✓", "disagrees": "✗", "unsure": "≈"}
KEY = "✓ the paper's sign, ✗ the other sign, ≈ our interval holds 0"


# --- cells


def columns(table: Table) -> tuple[str, ...]:
    """What stands under each metric; without a paper, nothing of it."""
    if has_paper(table):
        return ("paper", "ours", "paper's step", "our step [95 %]", "")
    return ("mean", "step [95 %]")


def cells(row: TableRow, table: Table) -> list[tuple[str, ...]]:
    """For each metric one row's text under `columns`; the same in Markdown and HTML."""
    found: list[tuple[str, ...]] = []
    for place, metric in enumerate(table.metrics):
        result = row.metrics[metric]
        verdict = (result.step and result.step.verdict) or ""
        mean, ours = with_spread(result), our_step(result)
        if not has_paper(table):
            found.append((mean, ours))
            continue
        paper = "–" if result.paper is None else figure(result.paper)
        theirs = paper_step(result, row.paper_note if place == 0 else None)
        found.append((paper, mean, theirs, ours, VERDICTS.get(verdict, "")))
    return found


def has_paper(table: Table) -> bool:
    """Whether the rows stand against a paper's: the table then notes whose figures those are."""
    return bool(table.note)


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
    """Metrics, market, seeds and counts, in one line."""
    counts = [
        f"{metric}: {n.queries:,} queries, {n.pairs:,} pairs"
        for metric in table.metrics
        for n in [table.n[metric.partition(".")[0]]]
    ]
    recipes = dict.fromkeys([table.recipe, *(row.recipe for row in table.rows if row.recipe)])
    return (
        f"{'; '.join(counts)}; on {table.market['name']} ({table.market['fingerprint']});"
        f" {'recipe' if len(recipes) == 1 else 'recipes'} {', '.join(recipes)},"
        f" seeds {', '.join(map(str, table.seeds))}"
    )


def caption(table: Table) -> str:
    """What was measured on what, what the marks mean, by which Mercato and when."""
    return f"{source(table)}. {table.method}" + (f" {KEY}." if has_paper(table) else "")


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
    several = len(table.metrics) > 1
    head = ["row"]
    for metric in table.metrics:
        first, *rest = (name or "sign" for name in columns(table))
        head += [f"{metric}: {first}" if several else first, *rest]
    head.append("training")
    aligned = [":--", *((":-:" if name == "sign" else "--:") for name in head[1:])]
    body = [
        [row.name, *(cell for group in cells(row, table) for cell in group), training_cost(row)] for row in table.rows
    ]
    lines = [head, aligned, *([cell.replace("|", "\\|") for cell in line] for line in body)]
    reference = f" ({table.reference})" if table.reference else ""
    paragraphs = (
        f"# {table.title}{reference}",
        f"{table.note} {score(table)}".strip(),
        "\n".join("| " + " | ".join(line) + " |" for line in lines),
        f"{caption(table)} {made(table)}".strip(),
    )
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph) + "\n"


def terminal(table: Table) -> RichTable:
    """The table for a person at a terminal, which is narrow: the paper's step, spreads, intervals on second lines."""
    grid = RichTable(title=escape(table.title), caption=escape(caption(table)))
    grid.add_column(min_width=12, overflow="fold")
    for metric in table.metrics:
        for name in (*(["paper"] if has_paper(table) else []), metric.replace(".", "\n."), "step"):
            grid.add_column(name, justify="right", overflow="fold")
    for row in table.rows:
        line = [row.name]
        for group in cells(row, table):
            if has_paper(table):
                paper, ours, theirs, step, sign = group
                line += [f"{paper}\n{theirs}".rstrip(), ours, f"{sign} {step}".lstrip()]
            else:
                line += group
        grid.add_row(*(escape(cell.replace(" [", "\n[").replace(" ±", "\n±")) for cell in line))
    return grid
