"""`explain.html`: one self-contained page that shows what a run's towers look at."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from importlib.resources import files
from pathlib import Path

from mercato.evaluation.attention import SHORT, LengthWeights, Mean, SideWeights
from mercato.evaluation.importance import RESAMPLES, Ablation, Replacement
from mercato.evaluation.interpretation import Explanation, TowerAttention
from mercato.fields import label_of
from mercato.files import write_atomic
from mercato.reports import charts
from mercato.reports.charts import decimal
from mercato.reports.evaluation_page import UNITS
from mercato.reports.html import document, legend, percent, signed, today
from mercato.reports.photos_section import photos_section

COLOURS = {"text": "s0", "trigrams": "s1", "country": "s2"}
TOWERS = {"query": "The query", "product": "The product"}
FEWEST = 3  # queries of a length that the chart shows


def write_explain_report(result: Explanation, path: Path, squares: Mapping[str, str] = {}) -> None:
    """Write an explanation as one HTML file that needs nothing beside it; `squares` are its photos by product."""
    seen = photos_section(result.photos, squares) if result.photos else ""
    sections = [_head(result), seen, _attention(result), _importance(result), _method(result)]
    style = files("mercato.reports").joinpath("explain.css").read_text()
    title = f"What {result.recipe} looks at on {result.market}"
    write_atomic(path, document(title, sections, style))


# --- sections


def _head(result: Explanation) -> str:
    lead = " ".join(filter(None, (_verdict(result), _leaders(result))))
    return (
        f'<div class="eyebrow">Explanation of a run · {today()}</div>'
        f"<h1>What {escape(result.recipe)} looks at on {escape(result.market)}</h1>"
        f'<p class="lead">{lead}</p>'
    )


def _verdict(result: Explanation) -> str:
    """Do trigrams win for short queries? Only a difference whose interval excludes 0 is called one."""
    attention = result.attention["query"]
    short = attention.short if attention else None
    difference = short.trigrams_less_text if short else None
    if short is None or difference is None or difference.interval is None:
        return ""
    low, high = difference.interval
    weights = short.weights
    most = max(weights, key=lambda name: weights[name].mean)
    wins = "look more at trigrams than at the text" if low > 0 else "look more at the text than at trigrams"
    if low <= 0 <= high:
        wins = "look at trigrams and text alike"
    figures = f"{weights['trigrams'].mean:.0%} against {weights['text'].mean:.0%}"
    third = "" if most in ("text", "trigrams") else f", and {weights[most].mean:.0%} for the {label_of(most)}"
    return f"Queries of fewer than {SHORT} characters <b>{wins}</b> ({figures}{third})."


def _leaders(result: Explanation) -> str:
    """The product's most telling fields: by what the order loses without them, else by what the cosine does."""
    importance = result.importance["product"]
    kinds = importance.groups or importance.channels
    if result.roc_auc is None:
        shares = {name: kind["missing"].share or 0.0 for name, kind in kinds.items()}
        first = max(shares, key=lambda name: shares[name])
        share = f"{shares[first]:.0%} of all that moves it"
        return f"Of a product, the <b>{label_of(first)}</b> moves the cosine most: {share}."
    surely = [name for name, kind in kinds.items() if (kind["missing"].interval or (0, 0))[1] < 0]
    if not surely:
        return (
            "Of a product, <b>no field</b> surely matters: without any one of them the order is no worse beyond chance."
        )
    without = {name: kinds[name]["missing"].roc_auc or 0.0 for name in surely}
    first, *others = sorted(surely, key=lambda name: without[name])[:3]
    left = {name: decimal(without[name]) for name in (first, *others)}
    more = f"; without {' or '.join(f'{label_of(name)} to {left[name]}' for name in others)}" if others else ""
    return (
        f"Of a product, the <b>{label_of(first)}</b> matters most: without it the ROC AUC goes from"
        f" {decimal(result.roc_auc)} to {left[first]}{more}."
    )


def _attention(result: Explanation) -> str:
    if not any(result.attention.values()):
        return (
            "<h2>Attention</h2>"
            f'<div class="panel"><p>This run fuses its channels by {escape(_fusions(result))}: it has no'
            " attention weights to show. What each channel is worth is below.</p></div>"
        )
    means = "".join(
        f'<div class="panel"><h3>{TOWERS[tower]} <small>{_rows(result, tower)}</small></h3>'
        f'<div class="scroll">{_means(found, result.paper["attention"][tower])}</div>{_lengths(found)}</div>'
        for tower, found in result.attention.items()
        if found
    )
    marks = legend([("this run", "s0"), ("the paper", "s2")])
    return (
        '<h2>Attention</h2><p class="soft">Mean weight of every channel in the fusion of its tower; a channel that a'
        " row lacks weighs 0. Whiskers are 95% intervals of the mean.</p>"
        f"{marks}{means}{_by_length(result)}"
    )


def _means(found: TowerAttention, paper: Mapping[str, float]) -> str:
    rows = []
    for name, weight in found.channels.items():
        marks: list[charts.Mark] = [("s0", weight.mean, weight.interval)]
        if name in paper:
            marks.append(("s2", paper[name], None))
        rows.append((label_of(name), marks))
    return charts.dot_whisker(rows)


def _lengths(found: TowerAttention) -> str:
    """A weight alone misleads: it multiplies a vector that may be long or short."""
    lengths = {name: weight.vector_length for name, weight in found.channels.items()}
    listed = ", ".join(f"{label_of(name)} {length:.2f}" for name, length in lengths.items() if length is not None)
    return f'<p class="side soft">A weight multiplies a vector; the vectors\' mean lengths: {listed}.</p>'


def _by_length(result: Explanation) -> str:
    attention = result.attention["query"]
    if not attention:
        return ""
    drawn = [row for row in attention.by_length or () if row.queries >= FEWEST]
    if len(drawn) < 2:
        return ""
    names = list(attention.channels)
    sides = {f"Under {SHORT} characters": attention.short, f"{SHORT} characters and more": attention.long}
    said = "".join(_side(part, which) for which, part in sides.items() if part)
    return (
        '<div class="panel"><h3>By the length of the query <small>mean weight, with a 95% band; below, how many'
        f" queries of the test split have that length (those of fewer than {FEWEST} are left out)</small></h3>"
        f"{_bands(names, drawn)}{legend([(label_of(name), _colour(name)) for name in names])}{said}</div>"
    )


def _side(part: SideWeights, which: str) -> str:
    figures = ", ".join(f"{label_of(name)} {_weight(weight)}" for name, weight in part.weights.items())
    difference = part.trigrams_less_text
    apart = f"; trigrams less text {_weight(difference, signed)}" if difference else ""
    return f'<p class="side"><b>{which}</b> ({part.queries:,} queries): {figures}{apart}.</p>'


def _importance(result: Explanation) -> str:
    panels = []
    for tower, importance in result.importance.items():
        paper = result.paper["importance"][tower]
        rows = [_row(name, kinds, paper.get(name)) for name, kinds in importance.channels.items()]
        if importance.groups:
            rows.append(
                '<tr><td class="group" colspan="7">By field <small>its channels replaced together</small></td></tr>'
            )
            rows += [_row(name, kinds, None) for name, kinds in importance.groups.items()]
        panels.append(
            f'<div class="panel scroll"><h3>{TOWERS[tower]}</h3><table class="importance"><tr><th>channel</th>'
            '<th>share, missing</th><th>share, another\'s</th><th class="number">cosine moves by</th>'
            '<th class="number">ROC AUC without it</th><th class="number">ROC AUC with another\'s</th>'
            f'<th class="number">paper</th></tr>{"".join(rows)}</table></div>'
        )
    whole = "" if result.roc_auc is None else f" With everything in place the ROC AUC is {decimal(result.roc_auc)}."
    return (
        '<h2>What each channel is worth</h2><p class="soft">One channel of one tower at a time is replaced, by nothing'
        " (missing) or by that of another row, while the other tower is left alone. The share is how much the cosine"
        " moves on average, as a part of all channels of the tower. The ROC AUC says whether the order of relevant and"
        f" irrelevant pairs suffers: what moves all cosines alike has a large share and changes no order.{whole} The"
        " paper's shares (Table 2) are of other data and another model: compare the order, not the size.</p>"
        + "".join(panels)
    )


def _row(name: str, kinds: Mapping[Replacement, Ablation], paper: float | None) -> str:
    missing, other = kinds["missing"], kinds["other"]
    return (
        f"<tr><td>{label_of(name)}</td><td>{_bar(missing.share, 's0')}</td><td>{_bar(other.share, 's1')}</td>"
        f'<td class="number">{decimal(missing.change)}</td>'
        f'<td class="number">{_auc(missing)}</td><td class="number">{_auc(other)}</td>'
        f'<td class="number">{percent(paper)}</td></tr>'
    )


def _fusions(result: Explanation) -> str:
    query, product = (label_of(result.fusion[tower]) for tower in ("query", "product"))
    return query if query == product else f"{query} (query) and {product} (product)"


def _method(result: Explanation) -> str:
    n = result.n
    kind = "judged pairs" if n.pairs == "relevance" else "impressions of future days"
    facts = {
        "importance on": f"{n.count:,} {kind} of {n.queries:,} queries and {n.products:,} products",
        "attention on": f"all {n.all_queries:,} queries of the test split, and those products",
        "intervals": f"attention: mean ± 1.96 standard errors, over {UNITS[n.unit]}; ROC AUC: {RESAMPLES} bootstrap"
        f" resamples of {UNITS[n.unit]}, all changes of a tower together",
        "another's": "of another query or product of the test split, drawn at random for each pair",
        "fusion": _fusions(result),
        "seed": str(n.seed),
        "method": "feature ablation (Captum) of the fused channels; Que2Search (KDD 2021) §3.7",
    }
    listed = "".join(f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    return f'<h2>Data and method</h2><div class="panel"><dl>{listed}</dl></div>'


# --- pieces


def _bands(names: Sequence[str], rows: Sequence[LengthWeights]) -> str:
    """Weights (0 … 1) over query lengths: a line and a band a channel, and bars for the number of queries."""
    left, top, width, height, gap, bars = 46, 18, 900, 250, 30, 54
    first, last = rows[0].length, rows[-1].length
    most = max(row.queries for row in rows)
    step = width / (last - first + 1)

    def x(length: int) -> float:
        return left + step * (length - first + 0.5)

    def y(weight: float) -> float:
        return top + height * (1 - min(1.0, max(0.0, weight)))

    floor = top + height + gap + bars
    svg = [f'<svg viewBox="0 0 {left + width + 10} {floor + 36}" role="img" class="bands">']
    for tick in range(0, 11, 2):
        svg.append(
            f'<line class="grid" x1="{left}" y1="{y(tick / 10):.1f}" x2="{left + width}" y2="{y(tick / 10):.1f}"/>'
        )
        svg.append(f'<text x="{left - 8}" y="{y(tick / 10) + 4:.1f}" text-anchor="end">{tick / 10:.1f}</text>')
    if first < SHORT <= last:
        edge = x(SHORT) - step / 2
        svg.append(f'<line class="diagonal" x1="{edge:.1f}" y1="{top}" x2="{edge:.1f}" y2="{floor}"/>')
        svg.append(f'<text x="{edge + 6:.1f}" y="{top - 6}">{SHORT} characters and more</text>')
    for name in names:
        weights = [(x(row.length), row.weights[name]) for row in rows]
        spans = [(place, weight.interval or (weight.mean, weight.mean)) for place, weight in weights]
        outline = [f"{place:.1f},{y(span[1]):.1f}" for place, span in spans]
        outline += [f"{place:.1f},{y(span[0]):.1f}" for place, span in reversed(spans)]
        svg.append(f'<polygon class="band {_colour(name)}" points="{" ".join(outline)}"/>')
        points = [(place, y(weight.mean)) for place, weight in weights]
        path = " ".join(f"{place:.1f},{at:.1f}" for place, at in points)
        svg.append(f'<polyline class="line {_colour(name)}" points="{path}"/>')
        svg += [f'<circle class="{_colour(name)}" cx="{place:.1f}" cy="{at:.1f}" r="3"/>' for place, at in points]
    for row in rows:
        tall = bars * row.queries / most
        place = x(row.length)
        svg.append(
            f'<rect class="count" x="{place - step * 0.36:.1f}" y="{floor - tall:.1f}" width="{step * 0.72:.1f}"'
            f' height="{tall:.1f}"/>'
        )
        svg.append(f'<text x="{place:.1f}" y="{floor - tall - 4:.1f}" text-anchor="middle">{row.queries}</text>')
        svg.append(f'<text x="{place:.1f}" y="{floor + 15}" text-anchor="middle">{row.length}</text>')
    svg.append(f'<text x="{left + width / 2}" y="{floor + 33}" text-anchor="middle">characters in the query</text>')
    return f'<div class="scroll">{"".join([*svg, "</svg>"])}</div>'


def _bar(share: float | None, css: str) -> str:
    if share is None:
        return "–"
    return (
        f'<span class="share {css}"><svg viewBox="0 0 100 8" preserveAspectRatio="none"><rect class="track" width="100"'
        f' height="8"/><rect class="part" width="{100 * share:.1f}" height="8"/></svg><b>{percent(share)}</b></span>'
    )


def _auc(kind: Ablation) -> str:
    if kind.roc_auc is None or kind.roc_auc_change is None:
        return "–"
    span = kind.interval
    if span is None:
        return decimal(kind.roc_auc)
    verdict = "better" if span[0] > 0 else "worse" if span[1] < 0 else "unsure"
    return (
        f'{decimal(kind.roc_auc)} <span class="{verdict}">{signed(kind.roc_auc_change)}</span>'
        f" <small>{signed(span[0])} to {signed(span[1])}</small>"
    )


def _rows(result: Explanation, tower: str) -> str:
    n = result.n
    return f"{n.all_queries:,} queries" if tower == "query" else f"{n.products:,} products"


def _weight(weight: Mean, figure: Callable[[float], str] = decimal) -> str:
    span = weight.interval
    return figure(weight.mean) + (f" [{figure(span[0])}, {figure(span[1])}]" if span else "")


def _colour(name: str) -> str:
    return COLOURS.get(name, "s3")
