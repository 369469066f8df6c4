"""What a run loses when a seller leaves a field out: every metric with each field dropped from every product."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import sub
from pathlib import Path
from typing import Any

import pyarrow as pa

from mercato.data.market import Market
from mercato.data.pairs import held_out_pairs, split_cutoff
from mercato.evaluation.dataset import EARLIER
from mercato.evaluation.evaluate import Evaluation
from mercato.evaluation.metrics.arrays import IntArray, Vectors
from mercato.evaluation.metrics.bootstrap import RESAMPLES, Estimate, Interval, estimates
from mercato.evaluation.metrics.registry import directed
from mercato.evaluation.metrics.simultaneous import simultaneous_intervals
from mercato.evaluation.results import OURS, ByMetric, Figure, PartCounts, Result, mapped
from mercato.evaluation.systems import PRODUCT_BATCH, VectorSystem
from mercato.evaluation.units import Unit
from mercato.features.drop import Fields, drop_fields, fields_and_groups, fields_read
from mercato.progress import track
from mercato.runs.image_vectors import products_with_vectors
from mercato.runs.torch_encoder import TorchEncoder, load

# --- results


@dataclass(frozen=True)
class Loss(Result):
    """A metric without a field, and what is lost: whole less without, paired, with its 95 % interval.

    `simultaneous` is the interval that holds together with those of all of a run's losses.
    """

    value: float
    loss: float
    interval: Interval | None
    simultaneous: Interval | None


@dataclass(frozen=True)
class Difference(Result):
    """A paired difference and its 95 % interval; `simultaneous` holds together with those of all like differences."""

    difference: float
    interval: Interval | None
    simultaneous: Interval | None

    @classmethod
    def of(cls, estimate: Estimate, simultaneous: Interval | None) -> Difference:
        """The difference that was estimated."""
        return cls(estimate.value, estimate.interval, simultaneous)


@dataclass(frozen=True)
class FieldLosses(Result):
    """What a run loses without a field, and how many products have it: no other can lose anything."""

    products: int
    metrics: ByMetric[Loss]


@dataclass(frozen=True, kw_only=True)
class RunRobustness(Result):
    """One run: its figures whole, and its losses without each field; None: it does not read the field."""

    name: str
    folder: str
    fusion: str
    whole: ByMetric[Figure]
    fields: dict[str, FieldLosses | None]


@dataclass(frozen=True)
class Compared(Result):
    """Two runs without a field: the first's loss less the second's, and the second's value less the first's."""

    less_lost: Difference | None  # None where one of them does not read the field
    ahead: Difference


@dataclass(frozen=True, kw_only=True)
class Comparison(Result):
    """The second run against the first: ahead by how much whole, and without each field."""

    first: str
    second: str
    whole: ByMetric[Difference]
    fields: dict[str, ByMetric[Compared]]


@dataclass(frozen=True, kw_only=True)
class RobustnessCounts(Result):
    """What the runs were measured on."""

    resamples: int
    seed: int
    parts: dict[str, PartCounts]
    products: int
    queries: int
    unit: Unit = "query"  # what the intervals resample

    def as_dict(self) -> dict[str, Any]:
        """`n` in the JSON, where the parts' counts stand beside the others."""
        parts = {part: counts.as_dict() for part, counts in self.parts.items()}
        return {"resamples": self.resamples, "seed": self.seed, **parts, "products": self.products} | {
            "queries": self.queries,
            "unit": self.unit,
        }


@dataclass(frozen=True, kw_only=True)
class Robustness(Result):
    """What `mercato robustness --json` prints."""

    market: str
    n: RobustnessCounts
    fields: dict[str, list[str]]  # a field or group → the fields that are dropped
    runs: list[RunRobustness]
    comparison: Comparison | None  # of the first two runs


# --- measuring

Estimates = ByMetric[Estimate]


@dataclass(frozen=True)
class Measured:
    """A run's estimates whole, and without each field that it reads, and how many products have the field."""

    whole: Estimates
    dropped: dict[str, Estimates]
    have: dict[str, int]

    def losses(self, field: str) -> Estimates:
        """The paired losses: whole less without."""
        return mapped(lambda without, whole: whole - without, self.dropped[field], self.whole)

    def without(self, field: str) -> Estimates:
        """The estimates without a field: those of the whole where the run does not read it."""
        return self.dropped.get(field, self.whole)

    def fields(self, fields: Fields) -> dict[str, FieldLosses | None]:
        """The losses without every field that any run reads."""
        found: dict[str, FieldLosses | None] = dict.fromkeys(fields)
        losses = {field: self.losses(field) for field in self.have}
        together = _together(losses)
        for field, products in self.have.items():
            metrics = mapped(
                lambda without, loss, span: Loss(without.value, loss.value, loss.interval, span),
                self.dropped[field],
                losses[field],
                together[field],
            )
            found[field] = FieldLosses(products, metrics)
        return found


def _together(differences: Mapping[str, Estimates]) -> dict[str, ByMetric[Interval | None]]:
    """The intervals of differences, by field, that hold all together."""
    parts: dict[str, dict[tuple[str, str, str], Estimate]] = {}
    for field, tree in differences.items():
        for part, metrics in tree.items():
            parts.setdefault(part, {}).update({(field, part, metric): each for metric, each in metrics.items()})
    spans = simultaneous_intervals([*parts.values()])
    return {
        field: {part: {metric: spans[field, part, metric] for metric in metrics} for part, metrics in tree.items()}
        for field, tree in differences.items()
    }


def robustness(runs: Sequence[Path], market: Market, seed: int = 0) -> Robustness:
    """Every metric of one or several runs on the test split, whole and with each field dropped from every product.

    Losses are paired: whole less without, on the same resamples of the same queries; with two runs or more also the
    loss of the first less that of the second. Queries are encoded once.

    Args:
        runs: their folders. Where the market has neither pairs nor judgments, all are measured on the held-out pairs of
            the first one's recipe.
        market: what to measure on.
        seed: of the bootstrap and the batches.

    Raises:
        MercatoError: not a run, or nothing to measure on.
    """
    models = [load(run, market.path) for run in runs]
    names = _names(models, runs)
    pairs, already = held_out_pairs(market, models[0].recipe.pairs)
    fields = fields_and_groups([model.featurizer.spec for model in models], already)
    measured = []
    for run, model, name in zip(runs, models, names, strict=True):
        products = products_with_vectors(market, model, run)
        evaluation = Evaluation.of(
            model, market, seed=seed, pairs=pairs, dropped=already, products=products, baselines=False
        )
        read = {*fields_read(model.featurizer.spec)}
        own = {field: members for field, members in fields.items() if read & {*members}}
        vectors, have = _encoded(model, evaluation, products, already, own, name)
        whole, dropped, counts = _estimates(evaluation, vectors, name)
        measured.append(Measured(whole, dropped, have))
        dataset = evaluation.dataset
    return Robustness(
        market=market.config.name,
        n=RobustnessCounts(
            resamples=RESAMPLES,
            seed=seed,
            parts=counts,
            products=len(dataset.rows),
            queries=len(dataset.queries),
            unit=dataset.unit,
        ),
        fields={name: list(members) for name, members in fields.items()},
        runs=[
            RunRobustness(
                name=name,
                folder=str(run),
                fusion=model.recipe.product_tower.fusion,
                whole=mapped(Figure.of, own.whole),
                fields=own.fields(fields),
            )
            for run, model, name, own in zip(runs, models, names, measured, strict=True)
        ],
        comparison=_comparison(names, measured, fields) if len(runs) > 1 else None,
    )


def _names(models: Sequence[TorchEncoder], runs: Sequence[Path]) -> list[str]:
    """The recipes' names, or where two are alike the folders."""
    names = [model.recipe.name for model in models]
    return names if len({*names}) == len(names) else [str(run) for run in runs]


def _encoded(
    model: TorchEncoder, evaluation: Evaluation, products: pa.Table, already: Sequence[str], fields: Fields, name: str
) -> tuple[dict[str, Vectors], dict[str, int]]:
    """The catalogue's vectors without each field, (N, D) each, and how many products have the field.

    A product that lacks the field anyway keeps its vector: it loses nothing, to the last bit.
    """
    whole = evaluation.systems[OURS]
    assert isinstance(whole, VectorSystem)
    vectors, have = {field: whole.products.copy() for field in fields}, dict.fromkeys(fields, 0)
    wanted_M, as_of = evaluation.dataset.rows, split_cutoff(evaluation.market, EARLIER["test"])
    starts = range(0, len(wanted_M), PRODUCT_BATCH)

    def steps() -> Iterator[tuple[str, IntArray, list[dict[str, Any]], list[dict[str, Any]]]]:
        for start in starts:
            some_B = wanted_M[start : start + PRODUCT_BATCH]
            whole_B = [drop_fields(product, already) for product in products.take(some_B).to_pylist()]
            for field, members in fields.items():
                yield field, some_B, whole_B, [drop_fields(product, members) for product in whole_B]

    total = len(starts) * len(fields)
    for field, some_B, whole_B, without_B in track(steps(), f"product vectors, each field dropped ({name})", total):
        changed = [place for place, (row, left) in enumerate(zip(whole_B, without_B, strict=True)) if row != left]
        if changed:
            vectors[field][some_B[changed]] = model.encode_products(
                [without_B[place] for place in changed], as_of=as_of
            )
            have[field] += len(changed)
    return vectors, have


def _estimates(
    evaluation: Evaluation, vectors: Mapping[str, Vectors], name: str
) -> tuple[Estimates, dict[str, Estimates], dict[str, PartCounts]]:
    """Every metric of a run of which more is better, whole and without each field, and the parts' counts."""
    whole = evaluation.systems[OURS]
    assert isinstance(whole, VectorSystem)
    without = {field: VectorSystem(whole.queries, products) for field, products in vectors.items()}
    evaluation = replace(evaluation, systems={OURS: whole, **without})
    found: dict[str, Estimates] = {system: {} for system in evaluation.systems}
    counts: dict[str, PartCounts] = {}
    steps = [(part, system) for part in evaluation.parts for system in evaluation.systems]
    for part, system in track(steps, f"metrics and intervals ({name})"):
        statistics, counts[part] = evaluation.part(part, system)
        if system == OURS:
            weights_RQ = evaluation.weights(part)
        losable = {metric: statistic for metric, statistic in statistics.items() if directed(part, metric)}
        if measured := estimates(losable, weights_RQ):
            found[system][part] = measured
    return found.pop(OURS), found, counts


def _comparison(names: Sequence[str], measured: Sequence[Measured], fields: Fields) -> Comparison:
    """Which of the first two runs loses less without each field that both read, and which is ahead without each."""
    first, second = measured[:2]
    ahead = {field: mapped(sub, second.without(field), first.without(field)) for field in fields}
    ahead[OURS] = mapped(sub, second.whole, first.whole)
    both = [field for field in fields if field in first.have and field in second.have]
    less_lost = {field: mapped(sub, first.losses(field), second.losses(field)) for field in both}
    by_ahead, by_lost = (
        {field: mapped(Difference.of, tree, spans[field]) for field, tree in trees.items()}
        for trees, spans in ((ahead, _together(ahead)), (less_lost, _together(less_lost)))
    )
    return Comparison(
        first=names[0],
        second=names[1],
        whole=by_ahead.pop(OURS),
        fields={
            field: mapped(Compared, by_lost[field], own)
            if field in by_lost
            else mapped(lambda difference: Compared(None, difference), own)
            for field, own in by_ahead.items()
        },
    )
