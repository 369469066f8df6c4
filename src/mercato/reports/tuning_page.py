"""`tuning.html`: what was swept, what the run is searched with from now on, and what deeper later pages save."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from importlib.resources import files

from mercato.evaluation.metrics.bootstrap import Interval
from mercato.experiments.tuning.choosing import LOSS
from mercato.experiments.tuning.measuring import MEASURES, Measured
from mercato.experiments.tuning.paging import PAGE_SIZE, USUAL, Paging
from mercato.experiments.tuning.settings import Setting, Stages
from mercato.experiments.tuning.tune import Tuned
from mercato.reports.charts import decimal, lines
from mercato.reports.evaluation_page import UNITS
from mercato.reports.html import document, legend, percent, signed, today
from mercato.reports.tuning_charts import Dot, scatter

STAGES: dict[Stages, tuple[str, str]] = {  # what each is called, and its colour
    "none": ("no ranker", "s2"),
    "first": ("stage 1", "s1"),
    "both": ("both stages", "s0"),
}
LEVERS = {
    "min_cosine": "least cosine",
    "text_candidates": "words bring",
    "candidates": "candidates",
    "ef_search": "ef_search",
    "stages": "stages",
}
LABELS = {measure.name: measure.label for measure in MEASURES} | {"p50_ms": "p50 ms", "p99_ms": "p99 ms"}
DIGITS = {measure.name: measure.digits for measure in MEASURES} | {"p50_ms": 1, "p99_ms": 1}
QUALITIES = {"ndcg@10": "s0", "recall": "s1", "engaged": "s3", "precision": "s4"}
DOTS = {"s0": "on the frontier", "s2": "beaten by another", "s1": "first page, as chosen", "s4": "the usual first page"}
FIGURES = (
    "cpu_ms", "p50_ms", "p99_ms", "precision", "recall", "engaged", "retrieved", "unjudged", "exact@10", "exact",
    "ndcg@10", "engaged_shown",
)  # fmt: skip
PAGED_FIGURES = {
    "cpu_ms": "CPU ms a search",
    "first_ms": "first page, ms",
    "engaged": "of engaged, seen",
    "relevant": "of relevant, seen",
}


def page(tuned: Tuned) -> str:
    """The whole page; it needs nothing beside it."""
    sections = [_head(tuned), _policy(tuned), _frontier(tuned), _precision_matters(tuned), _levers(tuned)]
    sections += [_paging(tuned), _settings(tuned), _method(tuned)]
    style = files("mercato.reports").joinpath("tuning.css").read_text()
    return document(f"Tuning of {tuned.run}", sections, style)


def sentences(tuned: Tuned) -> list[str]:
    """The choice and what it is worth, for people."""
    if tuned.refused:
        return [f"Nothing was written: {tuned.refused}.", f"The nearest: {_in_words(tuned.first)}."]
    told = [f"As good as any, and cheap, for a first page: {_in_words(tuned.first)}."]
    usual = next(each for each in tuned.measured if each.setting == tuned.usual)
    if usual.setting != tuned.first.setting:
        told.append(f"The usual first page: {_in_words(usual)}.")
    return [*told, *([_saved(tuned.paging)] if tuned.paging else [])]


def words(setting: Setting) -> str:
    """A setting in words."""
    effort = setting.effort
    near = "no least cosine" if effort.min_cosine is None else f"a least cosine of {decimal(effort.min_cosine)}"
    text = "" if effort.text_candidates is None else f", {effort.text_candidates} of the words"
    return f"ef_search {effort.ef_search}, {effort.candidates} candidates{text}, {near}"


def _in_words(each: Measured) -> str:
    cost = f"{each.figures['cpu_ms']:.1f} CPU ms, p99 {each.figures['p99_ms']:.1f} ms"
    told = ((name, each.value(name)) for name in ("precision", "ndcg@10"))
    found = [f"{LABELS[name]} {figure(name, value)}" for name, value in told if value is not None]
    return f"{words(each.setting)} ({', '.join([cost, *found])})"


def lever(setting: Setting, name: str) -> str:
    """The value of one lever as it is shown."""
    value = setting.as_dict()[name]
    if name == "stages":
        return STAGES[setting.stages][0]
    if value is None:
        return "–" if name == "min_cosine" else "as many"
    return decimal(value) if name == "min_cosine" else f"{value:,}"


def figure(name: str, value: float | None) -> str:
    """A figure as it is shown."""
    if value is None:
        return "–"
    return decimal(value) if DIGITS[name] == 3 else f"{value:,.{DIGITS[name]}f}"


def worth_a_look(tuned: Tuned) -> list[tuple[Measured, str]]:
    """The frontier, the usual setting and the chosen ones, by their cost, and what each is."""
    best = tuned.frontier
    wanted: dict[Setting, tuple[Measured, str]] = {}
    for each in tuned.measured:
        names = [
            name
            for name, it in (
                ("first page", each.setting == tuned.first.setting),
                ("later pages", tuned.later is not None and each.setting == tuned.later.setting),
                ("usual", each.setting == tuned.usual),
                ("frontier", each in best),
            )
            if it
        ]
        if names:
            wanted[each.setting] = (each, ", ".join(names))
    return sorted(wanted.values(), key=lambda one: one[0].figures["cpu_ms"])


# --- sections


def _head(tuned: Tuned) -> str:
    css = ' class="lead refused"' if tuned.refused else ' class="lead"'
    lead = "".join(f"<p{css}>{escape(sentence)}</p>" for sentence in sentences(tuned))
    return (
        f'<div class="eyebrow">Tuning on {escape(tuned.market)} · {today()}</div>'
        f"<h1>How hard {escape(tuned.run)} is searched</h1>{lead}"
    )


def _policy(tuned: Tuned) -> str:
    if tuned.pages is None:
        return ""
    names = ("first page", "second page", "all after it") if len(tuned.pages) == 3 else ("every page",)
    head = "".join(f'<th class="number">{LEVERS[each]}</th>' for each in [*LEVERS][:-1])
    body = "".join(
        f"<tr><td>{name}</td>"
        + "".join(f'<td class="number">{lever(Setting(effort, tuned.serving), each)}</td>' for each in [*LEVERS][:-1])
        + "</tr>"
        for name, effort in zip(names, tuned.pages, strict=True)
    )
    return (
        '<div class="panel scroll"><h3>Page policy <small>as written to retrieval.json</small></h3><table>'
        f"<tr><th></th>{head}</tr>{body}</table></div>"
    )


def _frontier(tuned: Tuned) -> str:
    serving = [each for each in tuned.measured if each.setting.stages == tuned.serving]
    best = tuned.frontier
    panels = []
    for name in ("recall", "engaged", "precision", "ndcg@10"):
        dots = [
            Dot(
                each.figures["cpu_ms"],
                each.figures[name],
                _css(each, tuned, best),
                words(each.setting),
                _name(each, tuned),
            )
            for each in serving
            if name in each.figures
        ]
        if dots:
            panels.append(
                f'<div class="panel scroll"><h3>{LABELS[name]}</h3>'
                f"{scatter(dots, 'CPU ms of page one', LABELS[name])}</div>"
            )
    marks = legend([(name, css) for css, name in DOTS.items()])
    return (
        '<h2>The frontier</h2><p class="soft">A dot a setting, as the run serves. On the frontier no other setting'
        f" costs as little CPU time and is as precise with as much recall of relevant products.</p>{marks}"
        f'<div class="grid2">{"".join(panels)}</div>'
    )


def _css(each: Measured, tuned: Tuned, best: Sequence[Measured]) -> str:
    if each.setting == tuned.first.setting:
        return "s1"
    if each.setting == tuned.usual:
        return "s4"
    return "s0" if each in best else "s2"


def _name(each: Measured, tuned: Tuned) -> str:
    return "first page" if each.setting == tuned.first.setting else "usual" if each.setting == tuned.usual else ""


def _precision_matters(tuned: Tuned) -> str:
    swept = tuned.by_lever["min_cosine"]
    bounds = [each.setting.effort.min_cosine for each in swept]
    known = sorted({bound for bound in bounds if bound is not None})
    none = known[0] - max(0.05, (known[-1] - known[0]) / 10) if known else 0.0

    def line(name: str, stages: Stages) -> list[tuple[float, float]]:
        points = [
            (none if each.setting.effort.min_cosine is None else each.setting.effort.min_cosine, each.figures[name])
            for each in swept
            if each.setting.stages == stages and name in each.figures
        ]
        return sorted(points)

    used = [stages for stages in STAGES if any(each.setting.stages == stages for each in swept)]
    panels = []
    for name in ("ndcg@10", "engaged_shown"):
        series = [(STAGES[stages][0], STAGES[stages][1], line(name, stages)) for stages in used]
        if all(points for *_, points in series):
            panels.append(_panel(LABELS[name], series, LEVERS["min_cosine"]))
    marks = legend([(STAGES[stages][0], STAGES[stages][1]) for stages in used])
    found = [(LABELS[name], css, line(name, tuned.serving)) for name, css in QUALITIES.items() if name != "ndcg@10"]
    found = [(name, css, points) for name, css, points in found if points]
    retrieved = [("retrieved", "s0", line("retrieved", tuned.serving))]
    below = ""
    if found:
        below = legend([(name, css) for name, css, _ in found]) + (
            f'<div class="grid2">{_panel("what is retrieved", found, LEVERS["min_cosine"])}'
            f"{_panel('products retrieved', retrieved, LEVERS['min_cosine'])}</div>"
        )
    return (
        '<h2>Precision matters</h2><p class="soft">Consistency of retrieval and ranking: what page one shows, through'
        " each stage, as the least cosine of the vector's part rises. Where a ranker cannot handle what a loose bound"
        " brings, its line falls to the left; where the bound takes good products away, all lines fall to the right."
        f' Leftmost: no bound.</p>{marks}<div class="grid2">{"".join(panels)}</div>{below}'
    )


def _panel(
    title: str, series: Sequence[tuple[str, str, list[tuple[float, float]]]], x_label: str, from_zero: bool = False
) -> str:
    chart = lines(series, x_label=x_label, from_zero=from_zero)
    return f'<div class="panel"><h3>{escape(title)}</h3>{chart}</div>'


def _levers(tuned: Tuned) -> str:
    panels: list[str] = []
    used: dict[str, str] = {}
    for name in ("text_candidates", "candidates", "ef_search"):
        swept = sorted(tuned.by_lever[name], key=lambda each: _number(each.setting, name))
        series = []
        for quality, css in QUALITIES.items():
            points = [(_number(each.setting, name), each.figures[quality]) for each in swept if quality in each.figures]
            if points:
                series.append((LABELS[quality], css, points))
                used[LABELS[quality]] = css
        cost = [("CPU ms", "s0", [(_number(each.setting, name), each.figures["cpu_ms"]) for each in swept])]
        if series:
            panels.append(_panel(LEVERS[name], series, LEVERS[name]))
        panels.append(_panel(f"{LEVERS[name]}: CPU ms of page one", cost, LEVERS[name], from_zero=True))
    return (
        '<h2>One lever at a time</h2><p class="soft">Each from the usual first page, the others staying as they are'
        f" there.</p>{legend([*used.items()])}"
        f'<div class="grid2">{"".join(panels)}</div>'
    )


def _number(setting: Setting, name: str) -> float:
    """A lever's value on an axis."""
    effort = setting.effort
    return float(effort.of_words if name == "text_candidates" else getattr(effort, name))


def _saved(paging: Paging) -> str:
    """What the chosen policy saves against the others, by their whole searches."""
    if paging.chosen is None:
        return "No policy keeps to the constraints once it is replayed."
    own = paging.replayed[paging.chosen].estimates
    told = f"Replayed page by page, {paging.chosen} is chosen: {own['cpu_ms'].value:.1f} CPU ms a search"
    others = []
    for name in (USUAL, "deepest throughout"):
        if name in paging.replayed and name != paging.chosen:
            saved = 1 - own["cpu_ms"].value / paging.replayed[name].estimates["cpu_ms"].value
            others.append(f"{percent(abs(saved))} {'less' if saved >= 0 else 'more'} than {name}{_seen(paging, name)}")
    return told + "".join(f", {other}" for other in others) + "."


def _seen(paging: Paging, name: str) -> str:
    """How much more of the engaged products another policy shows."""
    if (name, "engaged") not in paging.differences:
        return ""
    difference, interval = paging.differences[name, "engaged"]
    return f" (which shows {signed(difference)}{_span(interval)} of the engaged products more)"


def _paging(tuned: Tuned) -> str:
    paging = tuned.paging
    if paging is None:
        why = (
            "nothing was chosen" if tuned.refused else "the market has no displayed lists that tell how far searches go"
        )
        return f'<h2>Cheap first page, deeper later</h2><p class="soft">Not replayed: {why}.</p>'
    shown = [name for name in PAGED_FIGURES if all(name in each.estimates for each in paging.replayed.values())]
    head = "".join(f'<th class="number">{PAGED_FIGURES[name]}</th>' for name in shown)
    body = "".join(
        f"<tr{' class=best' if policy == paging.chosen else ''}><td>{escape(policy)}</td>"
        f"{''.join(_paged_cell(paging, policy, name) for name in shown)}"
        f'<td class="number">{each.first_p99_ms:.1f}</td></tr>'
        for policy, each in paging.replayed.items()
    )
    chances = ", ".join(percent(chance) for chance in paging.reach.chances_P)
    source = (
        "as long as the validation lists are"
        if paging.reach.by == "lengths"
        else "the log displayed one page a search: the chance that position k is looked at,"
        f" k^−{paging.reach.exponent:.2f}, is fitted to its clicks and taken beyond it"
    )
    return (
        '<h2>Cheap first page, deeper later</h2><p class="soft">Golden queries paged through as a server answers them,'
        f" {PAGE_SIZE} a page; each page counts by the chance that a search goes on to it ({chances}: {source})."
        " Bold: chosen. Small: each other one less that, with 95% intervals that hold together.</p>"
        f'<div class="panel scroll"><table class="settings"><tr><th>efforts</th>{head}<th class="number">first page,'
        f" p99 ms</th></tr>{body}</table></div>"
    )


def _paged_cell(paging: Paging, policy: str, name: str) -> str:
    value = paging.replayed[policy].estimates[name].value
    ms = name.endswith("_ms")
    text = f"{value:.2f}" if ms else decimal(value)
    if (policy, name) in paging.differences:
        difference, interval = paging.differences[policy, name]
        told = f"{difference:+.2f}" if ms else signed(difference)
        text += f"<small>{told}{_span(interval, ms=ms)}</small>"
    return f'<td class="number">{text}</td>'


def _span(interval: Interval | None, *, ms: bool = False) -> str:
    if interval is None:
        return ""
    low, high = (f"{end:+.2f}" if ms else signed(end) for end in interval)
    return f" [{low}, {high}]"


def _settings(tuned: Tuned) -> str:
    names = [name for name in FIGURES if any(name in each.figures for each in tuned.measured)]
    head = "".join(f'<th class="number">{label}</th>' for label in LEVERS.values())
    head += "".join(f'<th class="number">{LABELS[name]}</th>' for name in names)
    best = tuned.frontier
    body = "".join(_row(each, names, each in best) for each in tuned.measured)
    return (
        '<h2>Every setting</h2><p class="soft">In the order in which they were measured; bold: on the frontier. Small:'
        f' 95% intervals over other queries.</p><div class="panel scroll"><table class="settings"><tr>{head}</tr>{body}'
        "</table></div>"
    )


def _row(each: Measured, names: Sequence[str], best: bool) -> str:
    cells = [f'<td class="number">{lever(each.setting, name)}</td>' for name in LEVERS]
    figures, intervals = each.figures, each.intervals
    for name in names:
        text = figure(name, figures.get(name))
        if name in intervals and DIGITS[name] == 3:
            low, high = (decimal(end) for end in intervals[name])
            text += f"<small>{low}–{high}</small>"
        cells.append(f'<td class="number">{text}</td>')
    return f"<tr{' class=best' if best else ''}>{''.join(cells)}</tr>"


def _method(tuned: Tuned) -> str:
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in _facts(tuned))
    meanings = "".join(f"<dt>{escape(each.label)}</dt><dd>{escape(each.meaning)}</dd>" for each in MEASURES)
    return (
        f'<h2>Data and method</h2><div class="panel"><dl>{listed}</dl></div>'
        f'<div class="panel"><h3>What the figures mean</h3><dl class="meanings">{meanings}</dl></div>'
    )


def _facts(tuned: Tuned) -> Iterator[tuple[str, str]]:
    counts, constraints = tuned.golden.counts(), tuned.constraints
    p99 = "free" if constraints.p99_ms is None else f"≤ {constraints.p99_ms:g} ms"
    precision = "free" if constraints.precision is None else f"≥ {constraints.precision:g}"
    choice = (
        f"the least CPU time of all that surely lose at most {LOSS:g} of nDCG@10 and of engaged products shown, beside"
        " the best that keeps to the constraints; for later pages, of recall, whatever they take; of policies, of what"
        " is seen. A lever stays where it is unless another value is surely cheaper"
    )
    yield "golden queries", ", ".join(f"{count:,} {stratum}" for stratum, count in counts.items())
    yield "of", "the validation split: a third from each third of its searches, and queries that raters judged"
    yield "constraints", f"p99 {p99}, precision {precision}"
    yield "choice", choice
    yield "intervals", f"95%, over {UNITS[tuned.golden.unit]}"
    yield "times", "one search at a time, in process, settings in turn on each query, the machine as busy as it was"
    yield "seed", str(tuned.seed)
