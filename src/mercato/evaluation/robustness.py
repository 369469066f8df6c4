"""`mercato robustness`: what a run loses when a seller leaves a field out: every metric with each field withheld."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.console import Group
from rich.markup import escape
from rich.table import Table

from mercato.data.market import Market
from mercato.data.pairs import held_out_pairs, split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EARLIER
from mercato.evaluation.evaluate import OURS, Evaluation
from mercato.evaluation.metrics.arrays import FloatArray, IntArray, Vectors
from mercato.evaluation.metrics.bootstrap import RESAMPLES, interval, point, resample
from mercato.evaluation.systems import PRODUCT_BATCH, VectorSystem
from mercato.features.drop import Fields, blank, fields_and_groups, fields_read
from mercato.files import write_atomic
from mercato.progress import track
from mercato.reports.charts import decimal
from mercato.reports.html import signed
from mercato.reports.robustness_page import Headline, lost, measured_headlines, rows, write_robustness_report
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder, load

HTML = "robustness.html"
TABLES = 3  # for a terminal; the page has every metric

Tree = dict[str, Any]
Key = tuple[str, str]  # part and metric


@dataclass(frozen=True)
class Measure:
    """A figure, and the same on each resample of the queries: (R,). Those of one part subtract in pairs."""

    value: float
    replicates_R: FloatArray

    def __sub__(self, other: Measure) -> Measure:
        return Measure(self.value - other.value, self.replicates_R - other.replicates_R)

    def tree(self, name: str) -> Tree:
        """The figure by its name, and its 95 % interval."""
        span = interval(self.replicates_R)
        return {name: self.value, "interval": None if span is None else [*span]}


Measures = dict[Key, Measure]


@dataclass(frozen=True)
class Measured:
    """A run: its figures whole ("") and without each field that it reads, and how many products have the field."""

    measures: dict[str, Measures]
    have: dict[str, int]

    def losses(self, field: str) -> Measures:
        """The paired losses: whole less withheld."""
        return {key: self.measures[""][key] - without for key, without in self.measures[field].items()}

    def without(self, field: str) -> Measures:
        """The figures without a field: those of the whole where the run does not read it."""
        return self.measures.get(field, self.measures[""])

    def tree(self, fields: Fields) -> Tree:
        """What the JSON says of the run."""
        found: dict[str, Tree | None] = dict.fromkeys(fields)
        for field, products in self.have.items():
            losses, without = self.losses(field), self.measures[field]
            metrics = {key: {"value": without[key].value, **loss.tree("loss")} for key, loss in losses.items()}
            found[field] = {"products": products, "metrics": _nested(metrics)}
        whole = {key: figure.tree("value") for key, figure in self.measures[""].items()}
        return {"whole": _nested(whole), "fields": found}


def robustness(runs: Sequence[Path], market: Market, page: Path, seed: int = 0) -> Tree:
    """Every metric of one or several runs on the test split, whole and with each field withheld from every product.

    Losses are paired: whole less withheld, on the same resamples of the same queries; with two runs or more also the
    loss of the first less that of the second. Queries are encoded once.

    Args:
        runs: their folders. Where the market has neither pairs nor judgments, all are asked the held-out pairs of the
            first one's recipe.
        market: what to measure on.
        page: the HTML file to write (`page_of`), its JSON beside it.
        seed: of the bootstrap and the batches.

    Returns:
        {"market", "n": {counts, seed}, "fields": {field: [what is blank without it]}, "runs": [{"name", "folder",
        "fusion", "whole": {part: {metric: {"value", "interval"}}}, "fields": {field: {"products": how many have it,
        "metrics": {part: {metric: {"value", "loss", "interval"}}}}, or None where the run does not read it}}],
        "comparison": {"first", "second", "whole": {part: {metric: …}}, "fields": {field: {part: {metric:
        {"less_lost", "ahead"}}}}}, or None for one run}. `less_lost` (first's loss - second's; None where one does
        not read the field) and `ahead` (the second's value - the first's) are {"difference", "interval"}.

    Raises:
        MercatoError: not a run, or nothing to measure on.
    """
    models = [load(run, market.path) for run in runs]
    names = _names(models, runs)
    pairs, withhold = held_out_pairs(market, models[0].recipe.pairs)
    fields = fields_and_groups([model.featurizer.spec for model in models], withhold)
    counts: Tree = {"resamples": RESAMPLES, "seed": seed}
    measured = []
    for run, model, name in zip(runs, models, names, strict=True):
        products = products_with_vectors(market, model, run)
        evaluation = Evaluation.of(
            model, market, seed=seed, pairs=pairs, withhold=withhold, products=products, baselines=False
        )
        read = {*fields_read(model.featurizer.spec)}
        own = {field: members for field, members in fields.items() if read & {*members}}
        with model.at(split_cutoff(market, EARLIER["test"])):
            vectors, have = _encoded(model, evaluation, products, withhold, own, name)
        measured.append(Measured(_measures(evaluation, vectors, counts, name), have))
        counts |= {"products": len(evaluation.tasks.rows), "queries": len(evaluation.tasks.queries)}
    result: Tree = {
        "market": market.config.name,
        "n": counts,
        "fields": {name: list(members) for name, members in fields.items()},
        "runs": [
            {"name": name, "folder": str(run), "fusion": model.recipe.product_tower.fusion, **figures.tree(fields)}
            for run, model, name, figures in zip(runs, models, names, measured, strict=True)
        ],
        "comparison": None,
    }
    if len(runs) > 1:
        compared = _comparison(measured[0], measured[1], fields)
        result["comparison"] = {"first": names[0], "second": names[1], **compared}
    write_atomic(page.with_suffix(".json"), json.dumps(result, indent=2) + "\n")
    write_robustness_report(result, page)
    return result


def page_of(runs: Sequence[Path], wanted: Path | None = None) -> Path:
    """Where the page goes: where it is wanted, else into the only run.

    Raises:
        MercatoError: several runs and no wish, or one for a file that is no page.
    """
    if wanted is None and len(runs) > 1:
        raise MercatoError("several runs need a place for their page: --out FILE.html")
    if wanted is not None and wanted.suffix != ".html":
        raise MercatoError(f"--out {wanted}: must end in .html; the JSON is written beside it")
    return wanted or runs[0] / HTML


def summary(result: Tree) -> Group:
    """What each run loses without each field, as a table for each of the first headline metrics."""
    return Group(*(_table(result, headline) for headline in measured_headlines(result)[:TABLES]))


def _names(models: Sequence[TorchEncoder], runs: Sequence[Path]) -> list[str]:
    """The recipes' names, or where two are alike the folders."""
    names = [model.recipe.name for model in models]
    return names if len({*names}) == len(names) else [str(run) for run in runs]


def _encoded(
    model: TorchEncoder, evaluation: Evaluation, products: pa.Table, already: Sequence[str], fields: Fields, name: str
) -> tuple[dict[str, Vectors], dict[str, int]]:
    """The catalogue's vectors with each field withheld, (N, D) each, and how many products have the field.

    A product that lacks the field anyway keeps its vector: it loses nothing, to the last bit.
    """
    whole = evaluation.systems[OURS]
    assert isinstance(whole, VectorSystem)
    vectors, have = {field: whole.products.copy() for field in fields}, dict.fromkeys(fields, 0)
    wanted_M = evaluation.tasks.rows
    starts = range(0, len(wanted_M), PRODUCT_BATCH)

    def steps() -> Iterator[tuple[str, IntArray, list[Tree], list[Tree]]]:
        for start in starts:
            some_B = wanted_M[start : start + PRODUCT_BATCH]
            whole_B = [blank(product, already) for product in products.take(some_B).to_pylist()]
            for field, members in fields.items():
                yield field, some_B, whole_B, [blank(product, members) for product in whole_B]

    total = len(starts) * len(fields)
    for field, some_B, whole_B, without_B in track(steps(), f"product vectors, each field withheld ({name})", total):
        changed = [place for place, (row, left) in enumerate(zip(whole_B, without_B, strict=True)) if row != left]
        if changed:
            vectors[field][some_B[changed]] = model.encode_products([without_B[place] for place in changed])
            have[field] += len(changed)
    return vectors, have


def _measures(evaluation: Evaluation, vectors: Mapping[str, Vectors], counts: Tree, name: str) -> dict[str, Measures]:
    """Every metric of the run, whole ("") and without each field; the parts' counts are added to `counts`."""
    whole = evaluation.systems[OURS]
    assert isinstance(whole, VectorSystem)
    every = {"": whole.products, **vectors}
    evaluation = replace(
        evaluation, systems={field: VectorSystem(whole.queries, each) for field, each in every.items()}
    )
    measured: dict[str, Measures] = {field: {} for field in every}
    steps = [(part, field) for part in evaluation.parts for field in every]
    for part, field in track(steps, f"metrics and intervals ({name})"):
        statistics, counts[part] = evaluation.part(part, field)
        queries = counts[part]["queries"]
        if not field:
            weights_RQ = resample(queries, evaluation.seed)
        for metric, statistic in statistics.items():
            value = point(statistic, queries)
            if value is not None:
                measured[field][part, metric] = Measure(value, statistic(weights_RQ))
    return measured


def _comparison(first: Measured, second: Measured, fields: Fields) -> Tree:
    """Which of two runs loses less without each field that both read, and which is ahead without each."""

    def ahead(field: str) -> dict[Key, Tree]:
        ours, theirs = second.without(field), first.without(field)
        return {key: (ours[key] - theirs[key]).tree("difference") for key in ours}

    compared = {}
    for field in fields:
        trees: dict[Key, Tree] = {key: {"less_lost": None, "ahead": found} for key, found in ahead(field).items()}
        if field in first.have and field in second.have:
            more, less = first.losses(field), second.losses(field)
            for key in trees:
                trees[key]["less_lost"] = (more[key] - less[key]).tree("difference")
        compared[field] = _nested(trees)
    return {"whole": _nested(ahead("")), "fields": compared}


def _nested(figures: Mapping[Key, Tree]) -> Tree:
    tree: Tree = {}
    for (part, metric), figure in figures.items():
        tree.setdefault(part, {})[metric] = figure
    return tree


def _table(result: Tree, headline: Headline) -> Table:
    grid = Table(title=headline.label, title_justify="left")
    comparison = result["comparison"]
    for head in ("", *(escape(run["name"]) for run in result["runs"])):
        grid.add_column(head, justify="right" if head else "left")
    if comparison:
        grid.add_column(f"{escape(comparison['second'])} loses less by", justify="right")
    for row in rows(result, headline):
        found = [_cell(loss, "loss", lost) if loss else "not read" for loss in row.losses]
        if comparison:
            found.append(_cell(row.less_lost, "difference", signed) if row.less_lost else "–")
        grid.add_row(escape(row.name), *found)
    whole = [f"{run['name']} {decimal(headline.of(run['whole'])['value'])}" for run in result["runs"]]
    grid.caption = escape(f"lost without the field, of {', '.join(whole)}; 95 % intervals over queries")
    return grid


def _cell(figure: Mapping[str, Any], name: str, told: Callable[[float], str]) -> str:
    span = figure["interval"]
    return told(figure[name]) + (f" [{told(span[0])}, {told(span[1])}]" if span else "")
