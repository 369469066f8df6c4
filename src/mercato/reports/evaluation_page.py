"""`report.html`: one self-contained page with the figures, their intervals, the curves and results to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mercato.evaluation.metrics.registry import PREDICTION_PARTS, SEARCH_PARTS
from mercato.evaluation.query_prediction import BASELINES, PART
from mercato.evaluation.results import OURS, Figure, Metrics, PartCounts
from mercato.files import write_atomic
from mercato.reports import charts
from mercato.reports.charts import decimal
from mercato.reports.details import Details, Example, PredictedProduct, Tile
from mercato.reports.headlines import CARDS, Headline, directed, metric_label
from mercato.reports.html import document, legend, signed, today
from mercato.runs.folder import monitored

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
    "batch": ("Batch recall", "a query's own product among the products of one batch"),
}
SHORT = {"knn": "Catalogue", "unseen": "New pairs"}
NAMES = {OURS: "Mercato", "bm25f": "BM25F", "bm25": "BM25", "random": "Random", "popular": "Most popular"}


def write_report(
    metrics: Metrics,
    path: Path,
    *,
    title: str,
    recipe_text: str = "",
    history: Sequence[Mapping[str, Any]] = (),
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
        _training(history) if history else "",
        _worst(details) if details and details.worst else "",
        _table(metrics),
        _facts(metrics, details, recipe_text),
    ]
    write_atomic(Path(path), document(title, sections))


# --- sections


def _head(metrics: Metrics, title: str) -> str:
    cards = "".join(_card(metrics, headline) for headline in CARDS)
    return (
        f'<div class="eyebrow">Evaluation report · {today()}</div><h1>{escape(title)}</h1>'
        f'<p class="lead">{_summary(metrics)}</p><div class="cards">{cards}</div>'
    )


def _summary(metrics: Metrics) -> str:
    """A sentence or two that a person who knows no metric understands."""
    ours, bm25 = metrics.ours, metrics.baselines.get("bm25", {})

    def theirs(part: str, metric: str, without: float) -> float:
        found = bm25.get(part, {}).get(metric)
        return found.value if found else without

    said: list[str] = []
    tasks: list[str] = []
    for part, kind in (("relevance", "relevant"), ("engagement", "engaged")):
        if auc := ours.get(part, {}).get("roc_auc"):
            higher = " higher" if not tasks else ""
            tasks.append(
                f"the {kind} one{higher} <b>{auc.value:.0%}</b> of the time (BM25 {theirs(part, 'roc_auc', 0.5):.0%})"
            )
    if tasks:
        said.append(f"Shown a pair of each kind, the model scores {' and '.join(tasks)}; chance is 50%.")
    for part, kind in (("unseen", " and that the log had not shown for the query"), ("knn", "")):
        if recall := ours.get(part, {}).get("recall@10"):
            said.append(
                f"Of the products that people went on to engage with{kind}, the first ten results out of"
                f" {metrics.n.products:,} hold <b>{recall.value:.0%}</b>; BM25's first ten hold"
                f" {theirs(part, 'recall@10', 0.0):.0%}."
            )
            break
    return " ".join(said) or "The figures that this market's tables allow."


def _card(metrics: Metrics, headline: Headline) -> str:
    figure, part, metric = headline.of(metrics.ours), headline.part, headline.metric
    if figure is None:
        return ""
    against = "".join(
        f'<span class="{css}"><i></i><b>{escape(_name(system))}</b> {decimal(theirs.value)}</span>'
        for system, css in _systems(metrics).items()
        if system != OURS and (theirs := headline.of(metrics.of(system)))
    )
    deltas = "".join(
        _delta(metrics.difference(system, part, metric), f" on {escape(_name(system))}") for system in _rivals(metrics)
    )
    label = f"{SHORT.get(part, TITLES[part][0])} {metric_label(part, metric)}"
    return (
        f'<div class="card"><h3>{label}</h3><div class="big">{decimal(figure.value)}</div>'
        f'<div class="against">{against}</div>{deltas}</div>'
    )


def _delta(difference: Figure | None, against: str = "", coloured: bool = True) -> str:
    if difference is None or difference.interval is None:
        return ""
    low, high = difference.interval
    verdict = "better" if low > 0 and coloured else "worse" if high < 0 and coloured else "unsure"
    return f'<span class="delta {verdict}">{signed(difference.value)}{against} [{signed(low)}, {signed(high)}]</span>'


def _comparison(metrics: Metrics) -> str:
    systems = _systems(metrics)
    panels = []
    for part in ("relevance", "engagement", "knn", "unseen", "batch"):
        if part not in metrics.ours:
            continue
        rows = [
            (metric_label(part, metric), _marks(metrics, systems, part, metric))
            for metric in metrics.ours[part]
            if directed(part, metric)  # the others are counts, off the scale of 0 … 1
        ]
        title, meaning = TITLES[part]
        panels.append(
            f'<div class="panel"><h3>{title} <small>{meaning} · {_counted(metrics.n.parts[part])}</small></h3>'
            f'<div class="scroll">{charts.dot_whisker(rows)}</div></div>'
        )
    names = legend([(_name(system), css) for system, css in systems.items()])
    return (
        "<h2>Against the baselines</h2>"
        '<p class="soft">Dots are the figures, whiskers 95% bootstrap intervals over queries.</p>'
        f"{names}{''.join(panels)}"
    )


def _examples(examples: Sequence[Example]) -> str:
    panels = []
    for example in examples:
        country = f"<small>{escape(example.country)}</small>" if example.country else ""
        panels.append(
            f'<div class="panel example"><header><b>{escape(example.query)}</b>{country}'
            f"<small>{example.why}</small></header>"
            f'<div class="scroll"><div class="results"><div class="who s0">Mercato</div>{_tiles(example.ours)}</div>'
            f'<div class="results"><div class="who s1">BM25</div>{_tiles(example.bm25)}</div></div></div>'
        )
    return (
        "<h2>Results to look at</h2>"
        '<p class="soft">The first six of the whole catalogue. ✓ relevant to a rater, or engaged with later;'
        " ✗ judged irrelevant; no mark: nobody judged it.</p>" + "".join(panels)
    )


def _predictions(metrics: Metrics, predicted: Sequence[PredictedProduct]) -> str:
    systems = {system: f"s{place}" for place, system in enumerate((OURS, *BASELINES))}
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


def _training(history: Sequence[Mapping[str, Any]]) -> str:
    """The validation curve over all stages, each in a colour of its own (Que2Search Figure 3), and their losses."""
    stages: dict[int, list[Mapping[str, Any]]] = {}
    for row in history:
        stages.setdefault(int(row.get("stage", 1)), []).append(row)
    validated, panels, done, metric = [], [], 0, ""
    for number, rows in stages.items():
        found = [(float(done + row["epoch"]), of) for row in rows if (of := monitored(row))]
        curve = [(epoch, value) for epoch, (_, value) in found]
        metric = found[0][1][0] if found else metric
        if curve:
            validated.append((f"stage {number}", f"s{(number - 1) % 5}", curve))
        named: dict[str, list[tuple[float, float]]] = {}
        for row in rows:
            for name, value in {"loss": row.get("loss"), **row.get("losses", {})}.items():
                if value is not None:
                    named.setdefault(name, []).append((float(done + row["epoch"]), float(value)))
        if named:
            series = [(name, f"s{place % 5}", points) for place, (name, points) in enumerate(named.items())]
            chart = charts.lines(series, x_label="epoch", whole_x=True)
            marks = legend([(name, css) for name, css, _ in series])
            heading = "Loss" if len(stages) == 1 else f"Loss of stage {number}"
            panels.append(f'<div class="panel"><h3>{heading}</h3>{chart}{marks}</div>')
        done += max(int(row["epoch"]) for row in rows)
    if validated:
        chart = charts.lines(validated, x_label="epoch", whole_x=True)
        marks = legend([(name, css) for name, css, _ in validated]) if len(validated) > 1 else ""
        of_both = any("validation/engagement" in row for row in history)
        meaning = " <small>the mean of relevance and engagement</small>" if of_both else ""
        panels.insert(0, f'<div class="panel"><h3>Validation {escape(metric)}{meaning}</h3>{chart}{marks}</div>')
    seconds = sum(row.get("seconds", 0) for row in history)
    took = f" in {seconds / 60:.1f} minutes" if seconds >= 60 else f" in {seconds:.0f} s" if seconds else ""
    text = f"{done} epoch{'s' * (done != 1)}{took}; a stage begins with the best epoch of the one before."
    return f'<h2>Training</h2><p class="soft">{text}</p><div class="grid2">{"".join(panels)}</div>'


def _worst(details: Details) -> str:
    rows = "".join(
        f'<tr><td class="query">{escape(worst.query)}</td><td>{escape(worst.country or "")}</td>'
        f'<td class="number">{worst.relevant} of {worst.judged}</td><td class="number">{decimal(worst.ours)}</td>'
        f'<td class="number">{decimal(worst.bm25)}</td></tr>'
        for worst in details.worst
    )
    return (
        f'<h2>Where it does worst</h2><p class="soft">The queries of the lowest {details.worst_metric}.</p>'
        '<div class="panel scroll"><table><tr><th>query</th><th>country</th><th class="number">relevant</th>'
        f'<th class="number">Mercato</th><th class="number">BM25</th></tr>{rows}</table></div>'
    )


def _table(metrics: Metrics) -> str:
    systems, rivals = _systems(metrics), _rivals(metrics)
    width = 1 + len(systems) + len(rivals)
    head = "".join(f'<th class="number {css}">{escape(_name(system))}</th>' for system, css in systems.items())
    head += "".join(f'<th class="number">Mercato − {escape(_name(system))}</th>' for system in rivals)
    rows = []
    for part in SEARCH_PARTS:
        if part not in metrics.ours:
            continue
        counted = _counted(metrics.n.parts[part])
        rows.append(f'<tr><td class="group" colspan="{width}">{TITLES[part][0]} <small>{counted}</small></td></tr>')
        for metric in metrics.ours[part]:
            cells = [_figure(metrics.of(system).get(part, {}).get(metric)) for system in systems]
            cells += [
                _delta(metrics.difference(system, part, metric), coloured=directed(part, metric)) for system in rivals
            ]
            row = "".join(f'<td class="number">{cell}</td>' for cell in cells)
            rows.append(f"<tr><td>{metric_label(part, metric)}</td>{row}</tr>")
    return (
        f'<h2>Every figure</h2><div class="panel scroll"><table><tr><th>metric</th>{head}</tr>'
        f"{''.join(rows)}</table></div>"
    )


def _facts(metrics: Metrics, details: Details | None, recipe_text: str) -> str:
    n = metrics.n
    facts = dict(details.market_info) if details else {}
    facts |= {"bootstrap": f"{n.resamples:,} resamples of the queries", "seed": str(n.seed)}
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    recipe = f"<details><summary>Recipe</summary><pre>{escape(recipe_text)}</pre></details>" if recipe_text else ""
    return f'<h2>Data and method</h2><div class="panel"><dl>{listed}</dl>{recipe}</div>'


# --- pieces


def _systems(metrics: Metrics) -> dict[str, str]:
    """Ours, the other encoders, BM25, random: each with its colour class."""
    others = [name for name in metrics.baselines if name not in ("bm25", "random", *BASELINES)]
    colours = {OURS: "s0", "bm25": "s1", "random": "s2"} | {name: f"s{3 + i % 2}" for i, name in enumerate(others)}
    order = [OURS, *others, *(name for name in ("bm25", "random") if name in metrics.baselines)]
    return {name: colours[name] for name in order}


def _rivals(metrics: Metrics) -> list[str]:
    """What ours is held against, pair by pair: BM25 and the other encoders."""
    return ["bm25", *(name for name in _systems(metrics) if name not in (OURS, "bm25", "random"))]


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


def _counted(counts: PartCounts) -> str:
    kinds = {"relevant": counts.relevant, "engaged": counts.engaged}
    text = f"{counts.queries:,} queries, {counts.pairs:,} pairs"
    text += "".join(f", {count:,} {kind}" for kind, count in kinds.items() if count is not None)
    return text + ("" if counts.batch_size is None else f", batches of {counts.batch_size:,}")


def _name(system: str) -> str:
    return NAMES.get(system, system)
