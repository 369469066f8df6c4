"""`report.html`: one self-contained page with the figures, their intervals, the curves and results to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mercato.evaluation.baselines.registry import BASELINES
from mercato.evaluation.metrics.registry import PREDICTION_PARTS, SEARCH_PARTS, directed
from mercato.evaluation.query_prediction import BASELINES as PREDICTORS
from mercato.evaluation.query_prediction import PART
from mercato.evaluation.results import OURS, Figure, Metrics
from mercato.files import write_atomic
from mercato.reports import charts
from mercato.reports.charts import decimal
from mercato.reports.details import Details, Example, PredictedProduct, Tile
from mercato.reports.headlines import Headline, leading, metric_label, metric_meaning
from mercato.reports.html import document, legend, signed, today
from mercato.reports.pretraining_section import pretraining_section
from mercato.reports.training_section import training_section
from mercato.reports.verdicts import beaten, compared, label, rivals, scoring, searching, verdict

TITLES = {
    "relevance": ("Relevance", "on what raters judged: relevant products before irrelevant ones"),
    "relevance_unseen": (
        "Relevance of queries new to the log",
        "of these, queries that nobody had engaged with before",
    ),
    "engagement": ("Engagement", "on future days: products people engaged with before those they saw and left"),
    "lists": ("Displayed lists", "what searches of future days displayed, put in order anew"),
    "knn": (
        "Retrieval from the whole catalogue",
        "what people engaged with on future days, found by nearest neighbours",
    ),
    "unseen": ("Retrieval of pairs new to the log", "of the same, the pairs that no earlier day shows together"),
    "cold": ("Retrieval of products new to the log", "of the same, the products that nobody had engaged with before"),
    "visual": (
        "Retrieval by what only a photo tells",
        "engaged or relevant products on whose colour or pattern, which the query names, their texts are silent",
    ),
    "batch": ("Batch recall", "a query's own product among the products of one batch"),
}
SHORT = {"knn": "Catalogue", "unseen": "New pairs", "cold": "New products", "visual": "Photo alone"}
COLOURS = {"bm25f": "s1", "bm25": "s5", "random": "s2", "impressions": "s6", "popularity": "s7", "price": "s8"}
UNITS = {"intent": "intents", "query": "queries in normal form"}


def write_report(
    metrics: Metrics,
    path: Path,
    *,
    title: str,
    recipe_text: str = "",
    history: Sequence[Mapping[str, Any]] = (),
    pretraining: Sequence[Mapping[str, Any]] = (),
    details: Details | None = None,
    examples: Sequence[Example] = (),
    predicted: Sequence[PredictedProduct] = (),
) -> None:
    """Write the report as one HTML file that needs nothing beside it.

    Args:
        metrics: what `evaluate` returned.
        path: the file to write, whole or not at all.
        title: the page's heading, e.g. the run's name.
        recipe_text: the resolved recipe, as TOML.
        history: the rows of `history.jsonl`, one an epoch: `stage`, `epoch` (0: before it), `loss`, `losses` by name,
            the validation ROC AUC, `seconds`.
        pretraining: the rows of its pretraining's history.
        details: from `collect_details`.
        examples: from `collect_examples`.
        predicted: from `collect_predictions`.
    """
    sections = [
        _head(metrics, title),
        _comparison(metrics),
        _examples(examples) if examples else "",
        _predictions(metrics, predicted) if PART in metrics.ours else "",
        _curves(details, metrics) if details else "",
        pretraining_section(pretraining) if pretraining else "",
        training_section(history) if history else "",
        _worst(details) if details and details.worst else "",
        _table(metrics),
        _facts(metrics, details, recipe_text),
    ]
    write_atomic(Path(path), document(title, sections))


# --- sections


def _head(metrics: Metrics, title: str) -> str:
    cards = "".join(_card(metrics, headline) for headline in leading(lambda each: each.of(metrics.ours) is not None))
    verdicts = beaten(metrics)
    return (
        f'<div class="eyebrow">Evaluation report · {today()}</div><h1>{escape(title)}</h1>'
        f'<p class="lead">{_summary(metrics)}</p>{f"<p>{escape(verdicts)}</p>" if verdicts else ""}'
        f'<div class="cards">{cards}</div>'
        '<p class="soft"><small>Right: what Mercato is ahead by, in colour where that is more than chance.</small></p>'
    )


def _summary(metrics: Metrics) -> str:
    """A sentence or two that a person who knows no metric understands."""
    lexical = next((name for name in ("bm25f", "bm25") if name in metrics.baselines), None)

    def share(part: str, metric: str) -> str | None:
        """How often or how much, ours beside a lexical search's; None where it was not measured."""
        ours = metrics.ours.get(part, {}).get(metric)
        theirs = metrics.of(lexical).get(part, {}).get(metric) if lexical else None
        beside = f" ({label(lexical)} {theirs.value:.0%})" if lexical and theirs else ""
        return f"<b>{ours.value:.0%}</b>{beside}" if ours else None

    said: list[str] = []
    if found := share("relevance", "roc_auc_per_query"):
        said.append(
            "Of two products for the same query, a relevant one and another, the model scores the relevant one higher"
            f" {found} of the time; chance is 50%."
        )
    if found := share("engagement", "roc_auc_exposure_matched"):
        said.append(
            "Of two that were shown for the same query about as often, one that people engaged with and one that they"
            f" left, it scores the engaged one higher {found} of the time."
        )
    for part, kind in (("unseen", " and that the log had not shown for the query"), ("knn", "")):
        if found := share(part, "recall@10"):
            said.append(
                f"Of the products that people went on to engage with{kind}, the first ten results out of"
                f" {metrics.n.products:,} hold {found}."
            )
            break
    return " ".join(said) or "The figures that this market's tables allow."


def _card(metrics: Metrics, headline: Headline) -> str:
    part, metric = headline.part, headline.metric
    lines = []
    for system, css in _systems(metrics).items():
        theirs = headline.of(metrics.of(system))
        if system != OURS and theirs:
            delta = _delta(compared(metrics, system, part, metric), ends=False) if system != "random" else ""
            lines.append(
                f'<span class="{css}"><i></i><b>{escape(_name(system))}</b> {decimal(theirs.value)}'
                f"{delta or '<span class=delta></span>'}</span>"
            )
    heading = f"{SHORT.get(part, TITLES[part][0])} {metric_label(part, metric)}"
    return (
        f'<div class="card"><h3>{heading}</h3><div class="big">{decimal(metrics.ours[part][metric].value)}</div>'
        f'<div class="against">{"".join(lines)}</div></div>'
    )


def _delta(difference: Figure | None, *, coloured: bool = True, ends: bool = True) -> str:
    """A difference in the colour of its verdict; without an interval there is none, and nothing is shown."""
    if difference is None or difference.interval is None:
        return ""
    css = verdict(difference) if coloured else "unsure"
    span = f" [{', '.join(map(signed, difference.interval))}]" if ends else ""
    return f'<span class="delta {css}">{signed(difference.value)}{span}</span>'


def _comparison(metrics: Metrics) -> str:
    systems = _systems(metrics)
    panels, explained = [], set[str]()
    for part in SEARCH_PARTS:
        if part not in metrics.ours:
            continue
        rows = [
            (metric_label(part, metric), _marks(metrics, systems, part, metric))
            for metric in metrics.ours[part]
            if directed(part, metric)  # the others are counts, off the scale of 0 … 1
        ]
        title, what = TITLES[part]
        meanings = {metric_label(part, metric): metric_meaning(part, metric) for metric in metrics.ours[part]}
        new = [(name, meaning) for name, meaning in meanings.items() if meaning not in explained]
        explained |= {*meanings.values()}
        panels.append(
            f'<div class="panel"><h3>{title} <small>{what} · {_counted(metrics, part)}</small></h3>'
            f'<div class="scroll">{charts.dot_whisker(rows)}</div>'
            f"{_meanings(new)}</div>"
        )
    known = [(_name(name), BASELINES[name].meaning) for name in systems if name in BASELINES]
    names = legend([(_name(system), css) for system, css in systems.items()])
    return (
        "<h2>Against the baselines</h2>"
        f'<p class="soft">Dots are the figures, whiskers 95% bootstrap intervals over {UNITS[metrics.n.unit]}.</p>'
        f"{names}{''.join(panels)}"
        + (f'<div class="panel"><h3>The baselines</h3>{_meanings(known)}</div>' if known else "")
    )


def _meanings(entries: Sequence[tuple[str, str]]) -> str:
    listed = "".join(f"<dt>{escape(name)}</dt><dd>{escape(meaning)}</dd>" for name, meaning in entries)
    return f'<dl class="meanings">{listed}</dl>' if listed else ""


def _examples(examples: Sequence[Example]) -> str:
    panels = []
    for example in examples:
        country = f"<small>{escape(example.country)}</small>" if example.country else ""
        panels.append(
            f'<div class="panel example"><header><b>{escape(example.query)}</b>{country}'
            f"<small>{example.why}</small></header>"
            f'<div class="scroll"><div class="results"><div class="who s0">Mercato</div>{_tiles(example.ours)}</div>'
            f'<div class="results"><div class="who s1">BM25F</div>{_tiles(example.lexical)}</div></div></div>'
        )
    return (
        "<h2>Results to look at</h2>"
        '<p class="soft">The first six of the whole catalogue. ✓ relevant to a rater, or engaged with later;'
        " ✗ judged irrelevant; no mark: nobody judged it.</p>" + "".join(panels)
    )


def _predictions(metrics: Metrics, predicted: Sequence[PredictedProduct]) -> str:
    systems = {system: f"s{place}" for place, system in enumerate((OURS, *PREDICTORS))}
    rows = [
        (Headline.of_metric(part, metric).label, _marks(metrics, systems, part, metric))
        for part in PREDICTION_PARTS
        for metric in metrics.ours.get(part, {})
    ]
    products = "".join(
        f'<div class="understood">{_tile(product.tile)}<ol>'
        + "".join(
            f'<li class="{"came" if came else ""}">{escape(query)} <small>{probability:.0%}</small></li>'
            for query, probability, came in product.predicted
        )
        + f'</ol><p class="soft">Searched as: {escape(", ".join(product.searched))}</p></div>'
        for product in predicted
    )
    n = metrics.n.parts[PART]
    counted = f"{n.products:,} products, {n.queries:,} queries; the head knows {n.head_queries:,}"
    return (
        "<h2>What products are searched as</h2>"
        '<p class="soft">The head’s likeliest queries of a product, against those with which people went on to engage'
        " with it. BM25 takes the queries that share words with the title. New: products that"
        " nobody engaged with before. Whiskers are over products.</p>"
        f"{legend([(_name(system), css) for system, css in systems.items()])}"
        f'<div class="panel"><h3>Predicted queries <small>{counted}</small></h3>'
        f'<div class="scroll">{charts.dot_whisker(rows)}</div></div>'
        + (f'<div class="panel products">{products}</div>' if products else "")
    )


def _curves(details: Details, metrics: Metrics) -> str:
    if not details.curves or details.histogram is None:
        return ""
    systems = _systems(metrics)
    series = [(_name(name), css, details.curves[name]) for name, css in systems.items() if name in details.curves]
    roc = charts.lines(series, x_label="false positive rate", y_label="true positive rate", square=True)
    kinds = details.pairs_name.removesuffix(" pairs").split(" against ")
    marks = legend([(kind, css) for kind, css in zip(kinds, ("relevant", "irrelevant"), strict=True)])
    return (
        f'<h2>How well scores separate</h2><p class="soft">{escape(details.pairs_name.capitalize())}.</p>'
        f'<div class="grid2"><div class="panel"><h3>ROC curves</h3>{roc}'
        f"{legend([(name, css) for name, css, _ in series])}</div>"
        f'<div class="panel"><h3>Cosines of both kinds</h3>{charts.histogram(*details.histogram, "cosine")}{marks}'
        "</div></div>"
    )


def _worst(details: Details) -> str:
    rows = "".join(
        f'<tr><td class="query">{escape(worst.query)}</td><td>{escape(worst.country or "")}</td>'
        f'<td class="number">{worst.relevant} of {worst.judged}</td><td class="number">{decimal(worst.ours)}</td>'
        f'<td class="number">{decimal(worst.lexical)}</td></tr>'
        for worst in details.worst
    )
    return (
        f'<h2>Where it does worst</h2><p class="soft">The queries of the lowest {details.worst_metric}.</p>'
        '<div class="panel scroll"><table><tr><th>query</th><th>country</th><th class="number">relevant</th>'
        f'<th class="number">Mercato</th><th class="number">BM25F</th></tr>{rows}</table></div>'
    )


def _table(metrics: Metrics) -> str:
    """A part at a time, a line a system: its figures, and below them what ours is ahead by."""
    held_against = rivals(metrics)
    parts = []
    for part in (part for part in SEARCH_PARTS if part in metrics.ours):
        names = list(metrics.ours[part])
        head = "".join(f'<th class="number">{metric_label(part, name)}</th>' for name in names)
        rows = []
        for system, css in _systems(metrics).items():
            figures = metrics.of(system).get(part, {})
            if not figures:
                continue
            cells = [_figure(figures.get(name)) for name in names]
            if system in held_against:
                deltas = [(compared(metrics, system, part, name), directed(part, name)) for name in names]
                cells = [
                    cell + _delta(delta, coloured=coloured)
                    for cell, (delta, coloured) in zip(cells, deltas, strict=True)
                ]
            line = "".join(f'<td class="number">{cell}</td>' for cell in cells)
            rows.append(f'<tr><td class="{css}"><b>{escape(_name(system))}</b></td>{line}</tr>')
        parts.append(
            f'<div class="panel scroll"><h3>{TITLES[part][0]} <small>{_counted(metrics, part)}</small></h3>'
            f'<table class="figures"><tr><th></th>{head}</tr>{"".join(rows)}</table></div>'
        )
    return (
        '<h2>Every figure</h2><p class="soft">With its 95% interval; below it what Mercato is ahead by, with the'
        " interval that holds together with all the others of the page (against what the log and the price say alone:"
        " with its own), in colour where that leaves 0.</p>" + "".join(parts)
    )


def _facts(metrics: Metrics, details: Details | None, recipe_text: str) -> str:
    n = metrics.n
    facts = dict(details.market_info) if details else {}
    facts |= {"bootstrap": f"{n.resamples:,} resamples of whole {UNITS[n.unit]}", "seed": str(n.seed)}
    for name, tuning in metrics.tuned.items():
        facts[f"{_name(name)} tuned on"] = (
            f"{tuning.queries:,} queries, {tuning.pairs:,} pairs of the {tuning.split} split: nDCG@10 there"
            f" {decimal(tuning.untuned_ndcg)} before, {decimal(tuning.tuned_ndcg)} after"
        )
    if (lists := n.parts.get("lists")) and lists.propensities:
        facts["propensities by position"] = " ".join(map(decimal, lists.propensities))
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    recipe = f"<details><summary>Recipe</summary><pre>{escape(recipe_text)}</pre></details>" if recipe_text else ""
    return f'<h2>Data and method</h2><div class="panel"><dl>{listed}</dl>{recipe}</div>'


# --- pieces


def _systems(metrics: Metrics) -> dict[str, str]:
    """Ours, the other encoders, lexical search, chance, the log's baselines: each with its colour class."""
    names = [*searching(metrics), *scoring(metrics)]
    others = [name for name in names if name not in COLOURS]
    colours = {OURS: "s0"} | COLOURS | {name: f"s{3 + place % 2}" for place, name in enumerate(others)}
    return {name: colours[name] for name in (OURS, *names)}


def _marks(metrics: Metrics, systems: Mapping[str, str], part: str, metric: str) -> list[charts.Mark]:
    """A dot for each system that has the figure."""
    found = ((css, metrics.of(system).get(part, {}).get(metric)) for system, css in systems.items())
    return [(css, figure.value, figure.interval) for css, figure in found if figure]


def _tiles(results: Sequence[Tile]) -> str:
    return "".join(_tile(result) for result in results) or '<div class="soft">nothing found</div>'


def _tile(result: Tile) -> str:
    css, mark = {True: ("yes", "✓"), False: ("no", "✗"), None: ("", "")}[result.verdict]
    badge = f'<span class="mark {css}">{mark}</span>' if mark else ""
    style = f' style="background-image:url({result.image})"' if result.image else ""
    blank = "" if result.image else "no image"
    return (
        f'<div class="tile {css}"><div class="photo"{style}>{blank}{badge}</div>'
        f'<div class="title">{escape(result.title)}</div><div class="price">{escape(result.price)}</div></div>'
    )


def _figure(figure: Figure | None) -> str:
    if figure is None:
        return "–"
    span = figure.interval
    return decimal(figure.value) + (f" <small>{decimal(span[0])}–{decimal(span[1])}</small>" if span else "")


def _counted(metrics: Metrics, part: str) -> str:
    counts = metrics.n.parts[part]
    units = f" of {counts.units:,} {UNITS[metrics.n.unit]}" if counts.units not in (None, counts.queries) else ""
    kinds = {"relevant": counts.relevant, "engaged": counts.engaged, "lists": counts.lists}
    text = f"{counts.queries:,} queries{units}, {counts.pairs:,} pairs"
    text += "".join(f", {count:,} {kind}" for kind, count in kinds.items() if count is not None)
    text += "" if counts.batch_size is None else f", batches of {counts.batch_size:,}"
    fewer = [f"{Headline.of_metric(part, metric).label}: {n:,}" for metric, n in (counts.defined or {}).items()]
    return text + (f"; queries that define {', '.join(fewer)}" if fewer else "")


def _name(system: str) -> str:
    return "Mercato" if system == OURS else label(system)
