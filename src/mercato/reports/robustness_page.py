"""`robustness.html`: one self-contained page that shows what runs lose when a field is missing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from mercato.evaluation.metrics.bootstrap import Interval
from mercato.evaluation.results import Figure
from mercato.evaluation.robustness import Compared, Difference, FieldLosses, Loss, Robustness
from mercato.fields import label_of
from mercato.files import write_atomic
from mercato.reports.charts import decimal, ticks
from mercato.reports.evaluation_page import UNITS
from mercato.reports.headlines import Headline, leading
from mercato.reports.html import document, legend, percent, signed, today

GROUPS = {"text": "all text", "context": "all context"}
COLOURS = ("s0", "s1", "s3", "s4", "s2")  # of the runs
FIRST = 2  # of the headlines are drawn on one scale, side by side


@dataclass(frozen=True)
class Row:
    """One field, one metric: each run's loss (None: it does not read the field), and the first two runs compared."""

    field: str
    losses: Sequence[Loss | None]
    compared: Compared | None

    @property
    def name(self) -> str:
        """What people call the field."""
        return _name(self.field)

    @property
    def less_lost(self) -> Difference | None:
        """The first run's loss less the second's."""
        return self.compared.less_lost if self.compared else None

    @property
    def ahead(self) -> Difference | None:
        """The second run's value less the first's."""
        return self.compared.ahead if self.compared else None


def loss_text(value: float) -> str:
    """A loss: .021, or −.007 for a gain."""
    return signed(value).removeprefix("+")


def measured_headlines(result: Robustness) -> list[Headline]:
    """The leading headlines that every run has a figure for, first the first of each part."""
    found = leading(lambda headline: all(headline.of(run.whole) for run in result.runs))
    firsts = {headline.part: headline for headline in reversed(found)}
    return sorted(found, key=lambda headline: firsts[headline.part] != headline)


def rows(result: Robustness, headline: Headline) -> list[Row]:
    """A row a field, first the one whose absence costs most of the first headline metric."""
    first = measured_headlines(result)[0]

    def losses(field: str, of: Headline) -> list[Loss | None]:
        read = (run.fields[field] for run in result.runs)
        return [of.of(each.metrics) if each else None for each in read]

    def worst(field: str) -> float:
        return max(loss.loss for loss in losses(field, first) if loss)

    compared = result.comparison.fields if result.comparison else {}
    return [
        Row(field, losses(field, headline), headline.of(compared.get(field, {})))
        for field in sorted(result.fields, key=worst, reverse=True)
    ]


def write_robustness_report(result: Robustness, path: Path) -> None:
    """Write the result as one HTML file that needs nothing beside it."""
    sections = [_head(result), _charts(result), _who_loses_less(result), _tables(result), _method(result)]
    style = files("mercato.reports").joinpath("robustness.css").read_text()
    write_atomic(path, document(_title(result), sections, style))


# --- sections


def _title(result: Robustness) -> str:
    names = [run.name for run in result.runs]
    verb = "loses" if len(names) == 1 else "lose"
    return f"What {', '.join(names[:-1])}{' and ' if names[1:] else ''}{names[-1]} {verb} when a field is missing"


def _head(result: Robustness) -> str:
    lead = "".join(f'<p class="lead">{sentence}</p>' for sentence in sentences(result))
    return (
        f'<div class="eyebrow">Robustness on {escape(result.market)} · {today()}</div>'
        f"<h1>{escape(_title(result))}</h1>{lead}"
    )


def sentences(result: Robustness) -> list[str]:
    """What the page begins with: for the first headlines, which run loses less, or what a single run needs most."""
    say = _verdict if result.comparison else _worst
    return [say(result, headline) for headline in measured_headlines(result)[:FIRST]]


def _worst(result: Robustness, headline: Headline) -> str:
    """The single field whose absence surely costs most."""
    single = [(row.name, row.losses[0]) for row in rows(result, headline) if len(result.fields[row.field]) == 1]
    sure = [(name, loss) for name, loss in single if loss and _sure(loss.simultaneous) > 0]
    whole = headline.of(result.runs[0].whole)
    if not sure or not whole:
        return f"Without any one field the {headline.label} is no worse beyond chance."
    name, loss = max(sure, key=lambda each: each[1].loss)
    return (
        f"The {headline.label} suffers most without <b>{escape(name)}</b>: {decimal(loss.value)} in place of"
        f" {decimal(whole.value)}."
    )


def _verdict(result: Robustness, headline: Headline) -> str:
    """Which of the first two runs loses less: only a difference whose simultaneous interval excludes 0 counts."""
    comparison = result.comparison
    assert comparison
    first, second = escape(comparison.first), escape(comparison.second)
    less_lost = {row.name: _sure(row.less_lost.simultaneous) for row in rows(result, headline) if row.less_lost}
    less, more, alike = ([name for name, sure in less_lost.items() if sure == sign] for sign in (1, -1, 0))
    parts = [
        f"<b>{run} loses less</b> without {escape(_listed(names))}"
        for run, names in ((second, less), (first, more))
        if names
    ]
    if alike:
        which = f"the other {len(alike)}" if parts else f"any of the {len(alike)} fields and groups"
        parts.append(f"without {which} there is no difference beyond chance")
    if whole := headline.of(comparison.whole):
        by = f"by {decimal(abs(whole.difference))}"
        place = {1: f"ahead {by}", -1: f"behind {by}", 0: "level, within chance"}[_sure(whole.simultaneous)]
        parts.append(f"with every field in place {second} is {place}")
    return f"Of {headline.label}, {'; '.join(parts)}."


def _charts(result: Robustness) -> str:
    drawn = measured_headlines(result)
    together = drawn[:FIRST]
    spans = {headline: _span(_marks(result, headline)) for headline in drawn}
    low, high = min(spans[one][0] for one in together), max(spans[one][1] for one in together)
    spans |= dict.fromkeys(together, (low, high))
    panels = "".join(
        f'<div class="panel"><h3>{escape(headline.label)} <small>lost, of {_wholes(result, headline)}</small></h3>'
        f"{_bars(_marks(result, headline), spans[headline])}</div>"
        for headline in drawn
    )
    marks = legend([*_coloured(result), ("pale: may be chance (the interval holds 0)", "pale s2")])
    one_scale = " The first two charts share a scale." if len(together) == FIRST else ""
    return (
        '<h2>What is lost without each field</h2><p class="soft">All products are encoded again as if nobody had filled'
        " the field in; the queries stay. A bar is the metric of the whole run less that without the field: the longer,"
        f" the more the run needs it. Lines are 95% intervals that hold together.{one_scale}</p>{marks}"
        f'<div class="grid2">{panels}</div>'
    )


def _who_loses_less(result: Robustness) -> str:
    comparison = result.comparison
    if not comparison:
        return ""
    panels = []
    for headline in measured_headlines(result)[:FIRST]:
        marks = [(row.name, [_less_mark(row.less_lost)]) for row in rows(result, headline) if row.less_lost]
        if marks:
            first, second = escape(comparison.first), escape(comparison.second)
            panels.append(
                f'<div class="panel"><h3>{escape(headline.label)} <small>loss of {first} less that of {second}</small>'
                f"</h3>{_bars(marks, _span(marks))}</div>"
            )
    if not panels:
        return ""
    ends = legend([(f"{comparison.second} loses less", COLOURS[1]), (f"{comparison.first} loses less", COLOURS[0])])
    return (
        '<h2>Who loses less</h2><p class="soft">The same losses, one run against the other on the same resamples of the'
        " same queries; only fields that both read. A run that has less to lose loses less: the table below also says"
        f" which is ahead once the field is gone.</p>{ends}"
        f'<div class="grid2">{"".join(panels)}</div>'
    )


def _less_mark(less: Difference) -> Mark:
    return (COLOURS[1] if less.difference > 0 else COLOURS[0], less.difference, less.simultaneous)


def _tables(result: Robustness) -> str:
    heads = "".join(f'<th class="number">{escape(run.name)}</th><th class="number">lost</th>' for run in result.runs)
    if result.comparison:
        second = escape(result.comparison.second)
        heads += f'<th class="number">{second} loses less by</th><th class="number">{second} ahead by</th>'
    body = []
    for part, metrics in result.runs[0].whole.items():
        for metric in metrics:
            one = Headline.of_metric(part, metric)
            body.append(_whole_row(result, one))
            body += [_field_row(row, compared=bool(result.comparison)) for row in rows(result, one)]
    return (
        '<h2>Every metric</h2><p class="soft">Without each field: the figure, and what is lost with its 95%'
        " interval (all of them together), red where it is surely lost.</p>"
        '<div class="panel scroll"><table class="fields">'
        f"<tr><th>without</th>{heads}</tr>"
        f"{''.join(body)}</table></div>"
    )


def _whole_row(result: Robustness, one: Headline) -> str:
    cells = [f'<td class="number">{_plain(one.of(run.whole))}</td><td></td>' for run in result.runs]
    if result.comparison:
        cells.append(f'<td></td><td class="number">{_difference(one.of(result.comparison.whole))}</td>')
    columns = 1 + 2 * len(result.runs) + (2 if result.comparison else 0)
    return (
        f'<tr><td class="group" colspan="{columns}">{escape(one.label)}</td></tr>'
        f"<tr><td>nothing</td>{''.join(cells)}</tr>"
    )


def _field_row(row: Row, compared: bool) -> str:
    cells = []
    for loss in row.losses:
        if loss is None:
            cells.append('<td class="number soft" colspan="2">not read</td>')
        else:
            cells.append(f'<td class="number">{decimal(loss.value)}</td>')
            cells.append(
                f'<td class="number">{_with_interval(loss.loss, loss.simultaneous, loss_text, better=-1)}</td>'
            )
    if compared:
        cells += [f'<td class="number">{_difference(each)}</td>' for each in (row.less_lost, row.ahead)]
    return f"<tr><td>{escape(row.name)}</td>{''.join(cells)}</tr>"


def _method(result: Robustness) -> str:
    n = result.n
    facts = {
        "products": f"{n.products:,}, each encoded again for every field that it has",
        "measured on": ", ".join(f"{part} {n.parts[part].queries:,} queries" for part in result.runs[0].whole),
        "intervals": f"95%, all losses of a run together, and all differences; {n.resamples:,} bootstrap resamples of"
        f" {UNITS[n.unit]}, the same for every run and field",
        "seed": str(n.seed),
        "fusion": ", ".join(f"{run.name}: {run.fusion.replace('_', ' ')}" for run in result.runs),
        "all text, all context": "all fields of the group dropped together; context leaves texts and images alone",
        "method": "a field is empty in every product: what derives from it (relative price, age, …) is unknown too",
    }
    listed = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    have = "".join(
        f"<tr><td>{escape(_name(field))}</td><td>{escape(', '.join(map(label_of, members)))}</td>"
        f"{''.join(_share(run.fields[field], n.products) for run in result.runs)}</tr>"
        for field, members in result.fields.items()
    )
    names = "".join(f'<th class="number">{escape(run.name)}</th>' for run in result.runs)
    return (
        f'<h2>Data and method</h2><div class="panel"><dl>{listed}</dl></div><div class="panel scroll"><h3>Products that'
        " have the field <small>no other can lose anything</small></h3><table>"
        f"<tr><th>field</th><th>dropped</th>{names}</tr>{have}</table></div>"
    )


# --- pieces

Mark = tuple[str, float, Interval | None] | None  # colour, value, interval; None: not read


def _marks(result: Robustness, headline: Headline) -> list[tuple[str, list[Mark]]]:
    colours = [css for _, css in _coloured(result)]
    return [
        (row.name, [_loss_mark(css, loss) for css, loss in zip(colours, row.losses, strict=True)])
        for row in rows(result, headline)
    ]


def _loss_mark(css: str, loss: Loss | None) -> Mark:
    return (css, loss.loss, loss.simultaneous) if loss else None


def _ends(marks: Sequence[tuple[str, Sequence[Mark]]]) -> Iterator[float]:
    for _, bars in marks:
        for _, value, interval in filter(None, bars):
            yield from (value, *(interval or ()))


def _span(marks: Sequence[tuple[str, Sequence[Mark]]]) -> tuple[float, float]:
    """The ends of a scale that holds 0 and all intervals."""
    low, high = min(0.0, *_ends(marks)), max(0.0, *_ends(marks))
    return low, max(high, low + 0.01)  # nothing but zeros is no scale


def _bars(marks: Sequence[tuple[str, Sequence[Mark]]], span: tuple[float, float]) -> str:
    """Bars from 0, with their intervals, one line a field: HTML and not SVG, whose letters would shrink on a phone."""
    low, high = span

    def at(value: float) -> float:
        return 100 * (value - low) / (high - low)

    grid = "".join(
        f'<u{" class=zero" if not tick else ""} style="left:{at(tick):.2f}%"></u>' for tick in ticks(low, high)
    )
    lines = []
    for label, bars in marks:
        drawn = []
        for bar in bars:
            if bar is None:
                drawn.append(f'<span class="bar unread"><b style="left:{at(0):.2f}%">not read</b></span>')
                continue
            css, value, interval = bar
            ends = interval or (value, value)
            start, end = sorted((at(0), at(value)))
            pale = "" if _sure(interval) else " unsure-bar"
            title = f"{signed(value)} [{signed(ends[0])}, {signed(ends[1])}]"
            drawn.append(
                f'<span class="bar {css}{pale}" title="{title}">'
                f'<i style="left:{start:.2f}%;width:{end - start:.2f}%"></i>'
                f'<em style="left:{at(ends[0]):.2f}%;width:{at(ends[1]) - at(ends[0]):.2f}%"></em>'
                f'<b style="left:{max(end, at(ends[1])):.2f}%">{loss_text(value)}</b></span>'
            )
        lines.append(
            f'<div class="loss"><span class="field">{escape(label)}</span>'
            f'<span class="plot">{grid}{"".join(drawn)}</span></div>'
        )
    labels = {tick: f"{tick:g}".replace("0.", ".").replace("-", "−") for tick in ticks(low, high)}
    axis = "".join(f'<span style="left:{at(tick):.2f}%">{label}</span>' for tick, label in labels.items())
    return f'<div class="losses">{"".join(lines)}<div class="axis">{axis}</div></div>'


def _coloured(result: Robustness) -> list[tuple[str, str]]:
    return [(run.name, COLOURS[place % len(COLOURS)]) for place, run in enumerate(result.runs)]


def _wholes(result: Robustness, headline: Headline) -> str:
    return " and ".join(
        f'<b class="{css}">{decimal(figure.value)}</b>'
        for run, (_, css) in zip(result.runs, _coloured(result), strict=True)
        if (figure := headline.of(run.whole))
    )


def _difference(difference: Difference | None) -> str:
    """A difference in favour of the second run, with its interval."""
    if difference is None:
        return "–"
    return _with_interval(difference.difference, difference.simultaneous, signed, better=1)


def _with_interval(value: float, span: Interval | None, text: Callable[[float], str], better: int) -> str:
    """A figure with its interval, red or green where it is sure; `better` is the sign of a good one."""
    if span is None:
        return text(value)
    verdict = {1: "better", -1: "worse", 0: "unsure"}[_sure(span) * better]
    return f'<span class="{verdict}">{text(value)}</span> <small>{text(span[0])} to {text(span[1])}</small>'


def _plain(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    span = figure.interval
    return decimal(figure.value) + (f" <small>{decimal(span[0])} to {decimal(span[1])}</small>" if span else "")


def _share(read: FieldLosses | None, products: int) -> str:
    text = "not read" if read is None else f"{read.products:,} <small>{percent(read.products / products)}</small>"
    return f'<td class="number">{text}</td>'


def _sure(span: Interval | None) -> int:
    """1 or -1 where the interval lies on one side of 0, else 0."""
    return 0 if span is None else (span[0] > 0) - (span[1] < 0)


def _listed(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _name(field: str) -> str:
    """A field, or a group of them."""
    return GROUPS.get(field) or label_of(field)
