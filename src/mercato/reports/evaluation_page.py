"""`report.html`: one self-contained page with the figures, their intervals, the curves and results to look at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from mercato.evaluation.details import Details, Example, Result
from mercato.evaluation.evaluate import OURS, PARTS
from mercato.evaluation.query_prediction import BASELINES, PART, UnderstoodProduct
from mercato.evaluation.query_prediction import PARTS as OF_PRODUCTS
from mercato.files import write_atomic
from mercato.reports import charts
from mercato.reports.charts import decimal
from mercato.reports.html import document, legend, signed, today
from mercato.runs.folder import MONITOR

Tree = Mapping[str, Any]

TITLES = {
    "relevance": ("Relevance", "on what raters judged: relevant products before irrelevant ones"),
    "engagement": ("Engagement", "on future days: products people engaged with before those they were shown and left"),
    "knn": (
        "Retrieval from the whole catalogue",
        "what people engaged with on future days, found by nearest neighbours",
    ),
    "unseen": ("Retrieval of pairs new to the log", "of the same, the pairs that no earlier day shows together"),
    "batch": ("Batch recall", "a query's own product among the products of one batch"),
}
SHORT = {"knn": "Catalogue", "unseen": "New pairs"}
METRICS = {"roc_auc": "ROC AUC", "roc_auc_per_query": "ROC AUC, per query", "ndcg@10": "nDCG@10"}
HEADLINES = (  # both tasks first, side by side
    ("relevance", "roc_auc"),
    ("engagement", "roc_auc"),
    ("relevance", "ndcg@10"),
    ("knn", "recall@10"),
    ("unseen", "recall@10"),
)
NAMES = {OURS: "Mercato", "bm25": "BM25", "random": "Random", "popular": "Most popular"}


def write_report(
    metrics: Tree,
    path: Path,
    *,
    title: str,
    recipe_text: str = "",
    history: Sequence[Tree] = (),
    details: Details | None = None,
    examples: Sequence[Example] = (),
    understood: Sequence[UnderstoodProduct] = (),
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
        understood: from `Understanding.examples`.
    """
    sections = [
        _head(metrics, title),
        _comparison(metrics),
        _examples(examples) if examples else "",
        _understanding(metrics, understood) if PART in metrics else "",
        _curves(details, metrics) if details else "",
        _training(history) if history else "",
        _worst(details) if details and details.worst else "",
        _table(metrics),
        _facts(metrics, details, recipe_text),
    ]
    write_atomic(Path(path), document(title, sections))


# --- sections


def _head(metrics: Tree, title: str) -> str:
    cards = "".join(_card(metrics, part, metric) for part, metric in HEADLINES if metric in metrics.get(part, {}))
    return (
        f'<div class="eyebrow">Evaluation report · {today()}</div><h1>{escape(title)}</h1>'
        f'<p class="lead">{_summary(metrics)}</p><div class="cards">{cards}</div>'
    )


def _summary(metrics: Tree) -> str:
    """A sentence or two that a person who knows no metric understands."""
    bm25, n = metrics["baselines"].get("bm25", {}), metrics["n"]
    said: list[str] = []
    tasks: list[str] = []
    for part, kind in (("relevance", "relevant"), ("engagement", "engaged")):
        if "roc_auc" in metrics.get(part, {}):
            ours, theirs = metrics[part]["roc_auc"], bm25.get(part, {}).get("roc_auc", 0.5)
            higher = " higher" if not tasks else ""
            tasks.append(f"the {kind} one{higher} <b>{ours:.0%}</b> of the time (BM25 {theirs:.0%})")
    if tasks:
        said.append(f"Shown a pair of each kind, the model scores {' and '.join(tasks)}; chance is 50%.")
    for part, kind in (("unseen", " and that the log had not shown for the query"), ("knn", "")):
        if "recall@10" in metrics.get(part, {}):
            ours, theirs = metrics[part]["recall@10"], bm25.get(part, {}).get("recall@10", 0.0)
            said.append(
                f"Of the products that people went on to engage with{kind}, the first ten results out of"
                f" {n['products']:,} hold <b>{ours:.0%}</b>; BM25's first ten hold {theirs:.0%}."
            )
            break
    return " ".join(said) or "The figures that this market's tables allow."


def _card(metrics: Tree, part: str, metric: str) -> str:
    against = "".join(
        f'<span class="{css}"><i></i><b>{escape(_name(system))}</b> {decimal(tree[part][metric])}</span>'
        for system, (css, tree) in _systems(metrics).items()
        if system != OURS and metric in tree.get(part, {})
    )
    deltas = "".join(
        _delta(metrics, part, metric, system, f" on {escape(_name(system))}") for system in _rivals(metrics)
    )
    label = f"{SHORT.get(part, TITLES[part][0])} {_metric(metric)}"
    return (
        f'<div class="card"><h3>{label}</h3><div class="big">{decimal(metrics[part][metric])}</div>'
        f'<div class="against">{against}</div>{deltas}</div>'
    )


def _delta(metrics: Tree, part: str, metric: str, system: str, against: str = "") -> str:
    span = metrics["intervals"]["differences"].get(system, {}).get(part, {}).get(metric)
    if not span:
        return ""
    low, high = span
    difference = metrics[part][metric] - metrics["baselines"][system][part][metric]
    verdict = "better" if low > 0 else "worse" if high < 0 else "unsure"
    return f'<span class="delta {verdict}">{signed(difference)}{against} [{signed(low)}, {signed(high)}]</span>'


def _comparison(metrics: Tree) -> str:
    systems = _systems(metrics)
    panels = []
    for part in ("relevance", "engagement", "knn", "unseen", "batch"):
        if part not in metrics:
            continue
        rows = []
        for metric in metrics[part]:
            marks = [
                (css, tree[part][metric], _interval(metrics, system, part, metric))
                for system, (css, tree) in systems.items()
                if metric in tree.get(part, {})
            ]
            rows.append((_metric(metric), marks))
        title, meaning = TITLES[part]
        panels.append(
            f'<div class="panel"><h3>{title} <small>{meaning} · {_counted(metrics["n"][part])}</small></h3>'
            f'<div class="scroll">{charts.dot_whisker(rows)}</div></div>'
        )
    names = legend([(_name(system), css) for system, (css, _) in systems.items()])
    return (
        "<h2>Against the baselines</h2>"
        '<p class="soft">Dots are the figures, whiskers 95% bootstrap intervals over queries.</p>'
        f"{names}{''.join(panels)}"
    )


def _examples(examples: Sequence[Example]) -> str:
    shown = []
    for example in examples:
        country = f"<small>{escape(example.country)}</small>" if example.country else ""
        shown.append(
            f'<div class="panel example"><header><b>{escape(example.query)}</b>{country}'
            f"<small>{example.why}</small></header>"
            f'<div class="scroll"><div class="results"><div class="who s0">Mercato</div>{_tiles(example.ours)}</div>'
            f'<div class="results"><div class="who s1">BM25</div>{_tiles(example.bm25)}</div></div></div>'
        )
    return (
        "<h2>Results to look at</h2>"
        '<p class="soft">The first six of the whole catalogue. ✓ relevant to a rater, or engaged with later;'
        " ✗ judged irrelevant; no mark: nobody judged it.</p>" + "".join(shown)
    )


def _understanding(metrics: Tree, understood: Sequence[UnderstoodProduct]) -> str:
    trees, spans, n = metrics["baselines"], metrics["intervals"], metrics["n"][PART]
    systems = {OURS: (metrics, spans)} | {name: (trees[name], spans["baselines"][name]) for name in BASELINES}
    rows = [
        (
            f"{metric}{named}",
            [
                (f"s{place}", tree[part][metric], tuple(span[part][metric]))
                for place, (tree, span) in enumerate(systems.values())
            ],
        )
        for part, named in OF_PRODUCTS.items()
        for metric in metrics.get(part, {})
    ]
    shown = "".join(
        f'<div class="understood">{_tile(Result(product.title, product.price, product.photo, None))}<ol>'
        + "".join(
            f'<li class="{"came" if came else ""}">{escape(query)} <small>{probability:.0%}</small></li>'
            for query, probability, came in product.predicted
        )
        + f'</ol><p class="soft">Searched as: {escape(", ".join(product.asked))}</p></div>'
        for product in understood
    )
    counted = f"{n['products']:,} products, {n['queries']:,} queries; the head knows {n['head_queries']:,}"
    return (
        "<h2>What products are searched as</h2>"
        '<p class="soft">The head’s likeliest queries of a product, against those with which people went on to engage'
        " with it. BM25 takes the queries that share words with the title. New: products that"
        " nobody engaged with before. Whiskers are over products.</p>"
        f"{legend([(_name(name), f's{place}') for place, name in enumerate(systems)])}"
        f'<div class="panel"><h3>Predicted queries <small>{counted}</small></h3>'
        f'<div class="scroll">{charts.dot_whisker(rows)}</div></div>'
        + (f'<div class="panel products">{shown}</div>' if shown else "")
    )


def _curves(details: Details, metrics: Tree) -> str:
    if not details.curves or details.histogram is None:
        return ""
    systems = _systems(metrics)
    series = [(_name(name), systems[name][0], details.curves[name]) for name in systems if name in details.curves]
    roc = charts.lines(series, x_label="false positive rate", y_label="true positive rate", square=True)
    kinds = details.split_name.removesuffix(" pairs").split(" against ")
    marks = legend([(kind, css) for kind, css in zip(kinds, ("relevant", "irrelevant"), strict=True)])
    return (
        f'<h2>How well scores separate</h2><p class="soft">{escape(details.split_name.capitalize())}.</p>'
        f'<div class="grid2"><div class="panel"><h3>ROC curves</h3>{roc}'
        f"{legend([(name, css) for name, css, _ in series])}</div>"
        f'<div class="panel"><h3>Cosines of both kinds</h3>{charts.histogram(*details.histogram, "cosine")}{marks}'
        "</div></div>"
    )


def _training(history: Sequence[Tree]) -> str:
    """The validation curve over all stages, each in a colour of its own (Que2Search Figure 3), and their losses."""
    stages: dict[int, list[Tree]] = {}
    for row in history:
        stages.setdefault(int(row.get("stage", 1)), []).append(row)
    validated, panels, done = [], [], 0
    for number, rows in stages.items():
        curve = [(float(done + row["epoch"]), float(row[MONITOR])) for row in rows if MONITOR in row]
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
        panels.insert(0, f'<div class="panel"><h3>Validation ROC AUC{meaning}</h3>{chart}{marks}</div>')
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


def _table(metrics: Tree) -> str:
    systems, rivals = _systems(metrics), _rivals(metrics)
    width = 1 + len(systems) + len(rivals)
    head = "".join(f'<th class="number {css}">{escape(_name(system))}</th>' for system, (css, _) in systems.items())
    head += "".join(f'<th class="number">Mercato − {escape(_name(system))}</th>' for system in rivals)
    rows = []
    for part in PARTS:
        if part not in metrics:
            continue
        counted = _counted(metrics["n"][part])
        rows.append(f'<tr><td class="group" colspan="{width}">{TITLES[part][0]} <small>{counted}</small></td></tr>')
        for metric in metrics[part]:
            cells = ""
            for system, (_, tree) in systems.items():
                value, span = tree.get(part, {}).get(metric), _interval(metrics, system, part, metric)
                cells += f'<td class="number">{_figure(value, span)}</td>'
            for system in rivals:
                cells += f'<td class="number">{_delta(metrics, part, metric, system)}</td>'
            rows.append(f"<tr><td>{_metric(metric)}</td>{cells}</tr>")
    return (
        f'<h2>Every figure</h2><div class="panel scroll"><table><tr><th>metric</th>{head}</tr>'
        f"{''.join(rows)}</table></div>"
    )


def _facts(metrics: Tree, details: Details | None, recipe_text: str) -> str:
    n = metrics["n"]
    facts = dict(details.facts) if details else {}
    facts |= {"bootstrap": f"{n['resamples']:,} resamples of the queries", "seed": str(n["seed"])}
    listed = "".join(f"<dt>{escape(key)}</dt><dd>{escape(value)}</dd>" for key, value in facts.items())
    recipe = f"<details><summary>Recipe</summary><pre>{escape(recipe_text)}</pre></details>" if recipe_text else ""
    return f'<h2>Data and method</h2><div class="panel"><dl>{listed}</dl>{recipe}</div>'


# --- pieces


def _systems(metrics: Tree) -> dict[str, tuple[str, Tree]]:
    """Ours, the other encoders, BM25, random: each with its colour class and its figures."""
    baselines = metrics["baselines"]
    others = [name for name in baselines if name not in ("bm25", "random", *BASELINES)]
    colours = {OURS: "s0", "bm25": "s1", "random": "s2"} | {name: f"s{3 + i % 2}" for i, name in enumerate(others)}
    order = [OURS, *others, *(name for name in ("bm25", "random") if name in baselines)]
    return {name: (colours[name], metrics if name == OURS else baselines[name]) for name in order}


def _rivals(metrics: Tree) -> list[str]:
    """What ours is held against, pair by pair: BM25 and the other encoders."""
    return ["bm25", *(name for name in _systems(metrics) if name not in (OURS, "bm25", "random"))]


def _interval(metrics: Tree, system: str, part: str, metric: str) -> tuple[float, float] | None:
    tree = metrics["intervals"] if system == OURS else metrics["intervals"]["baselines"].get(system, {})
    span = tree.get(part, {}).get(metric)
    return (span[0], span[1]) if span else None


def _tiles(results: Sequence[Result]) -> str:
    return "".join(_tile(result) for result in results) or '<div class="soft">nothing found</div>'


def _tile(result: Result) -> str:
    css, mark = {True: ("yes", "✓"), False: ("no", "✗"), None: ("", "")}[result.verdict]
    badge = f'<span class="mark {css}">{mark}</span>' if mark else ""
    style = f' style="background-image:url({result.photo})"' if result.photo else ""
    blank = "" if result.photo else "no photo"
    return (
        f'<div class="tile {css}"><div class="photo"{style}>{blank}{badge}</div>'
        f'<div class="title">{escape(result.title)}</div><div class="price">{escape(result.price)}</div></div>'
    )


def _figure(value: float | None, span: tuple[float, float] | None) -> str:
    if value is None:
        return "–"
    return decimal(value) + (f" <small>{decimal(span[0])}–{decimal(span[1])}</small>" if span else "")


def _counted(counts: Tree) -> str:
    text = f"{counts['queries']:,} queries, {counts['pairs']:,} pairs"
    text += "".join(f", {counts[kind]:,} {kind}" for kind in ("relevant", "engaged") if kind in counts)
    return text + (f", batches of {counts['batch_size']:,}" if "batch_size" in counts else "")


def _name(system: str) -> str:
    return NAMES.get(system, system)


def _metric(metric: str) -> str:
    return METRICS.get(metric, metric)
