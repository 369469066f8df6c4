"""Results of an evaluation as frozen dataclasses, each the JSON that other programs read and back again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, ClassVar, Self, TypeVar

from pydantic import ConfigDict, TypeAdapter

from mercato.evaluation.metrics.bootstrap import Estimate, Interval
from mercato.evaluation.metrics.registry import PREDICTION_PARTS
from mercato.evaluation.units import Unit

T = TypeVar("T")
ByMetric = dict[str, dict[str, T]]  # part → metric → …

OURS = "mercato"
NO_PARTS = ("baselines", "n", "intervals", "tuned")  # keys of `evaluate --json` beside the parts
ABSENT = {"absent": True}  # a field that is None leaves its key out of the JSON


def _key(name: str) -> str:
    return name.removesuffix("_")


class Result:
    """A dataclass whose fields, in their order, are the keys of its JSON; one that Python reserves ends in "_"."""

    __pydantic_config__: ClassVar = ConfigDict(alias_generator=_key)

    def as_dict(self) -> dict[str, Any]:
        """What `json.dumps` takes."""
        tree: dict[str, Any] = _plain(self)
        return tree

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """The result that `as_dict` gave.

        Raises:
            pydantic.ValidationError: a key is missing or a value of another kind.
        """
        return TypeAdapter(cls).validate_python(tree)


def _plain(value: Any) -> Any:
    if isinstance(value, Result) and type(value).as_dict is not Result.as_dict:
        return value.as_dict()
    if is_dataclass(value):
        own = ((each, getattr(value, each.name)) for each in fields(value))
        return {_key(each.name): _plain(one) for each, one in own if one is not None or "absent" not in each.metadata}
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return [_plain(one) for one in value] if isinstance(value, list | tuple) else value


def mapped(function: Callable[..., T], *trees: Mapping[str, Mapping[str, Any]]) -> ByMetric[T]:
    """Apply a function to every metric of the first tree and the same one of the others."""
    return {
        part: {metric: function(*(tree[part][metric] for tree in trees)) for metric in metrics}
        for part, metrics in trees[0].items()
    }


@dataclass(frozen=True)
class Figure(Result):
    """A metric's value and its 95 % interval; None where no resample defines it."""

    value: float
    interval: Interval | None

    @classmethod
    def of(cls, estimate: Estimate) -> Self:
        """The figure of an estimate."""
        return cls(estimate.value, estimate.interval)


@dataclass(frozen=True, kw_only=True)
class PartCounts(Result):
    """What a part was measured on; None where the part does not count it."""

    products: int | None = field(default=None, metadata=ABSENT)
    queries: int
    units: int | None = field(default=None, metadata=ABSENT)  # what the intervals resample, over the queries
    pairs: int
    defined: dict[str, int] | None = field(default=None, metadata=ABSENT)  # queries of metrics that not all define
    lists: int | None = field(default=None, metadata=ABSENT)
    batch_size: int | None = field(default=None, metadata=ABSENT)
    split: str | None = field(default=None, metadata=ABSENT)
    unknown_products: int | None = field(default=None, metadata=ABSENT)  # pairs whose product is not in the catalogue
    relevant: int | None = field(default=None, metadata=ABSENT)
    engaged: int | None = field(default=None, metadata=ABSENT)
    head_queries: int | None = field(default=None, metadata=ABSENT)
    propensities: list[float] | None = field(default=None, metadata=ABSENT)  # of position 1, 2, …


@dataclass(frozen=True, kw_only=True)
class Counts(Result):
    """What everything was measured on: `n` in the JSON, where the parts' counts stand beside the others."""

    products: int
    queries: int
    resamples: int
    seed: int
    unit: Unit = "query"  # what the intervals resample: whole intents, or queries in normal form
    parts: dict[str, PartCounts]

    def as_dict(self) -> dict[str, Any]:
        """`n` of `evaluate --json`."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "parts"}
        return own | {part: counts.as_dict() for part, counts in self.parts.items()}

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """The counts that `as_dict` gave."""
        own = {name: value for name, value in tree.items() if not isinstance(value, Mapping)}
        parts = {name: PartCounts.from_dict(value) for name, value in tree.items() if isinstance(value, Mapping)}
        return cls(**own, parts=parts)


@dataclass(frozen=True, kw_only=True)
class Tuning(Result):
    """What a baseline's parameters were chosen on, none of it what is measured, and what became of them."""

    queries: int
    pairs: int
    split: str
    untuned_ndcg: float  # nDCG@10 on these
    tuned_ndcg: float
    weights: dict[str, float]  # by field
    b: dict[str, float]  # length normalisation, by field


@dataclass(frozen=True, kw_only=True)
class Metrics(Result):
    """What `mercato evaluate --json` prints: figures of our model and of every baseline, and their differences."""

    ours: ByMetric[Figure]
    baselines: dict[str, ByMetric[Figure]]
    differences: dict[str, ByMetric[Interval | None]]  # ours less the baseline, paired: the 95 % interval
    simultaneous_differences: dict[str, ByMetric[Interval | None]] = field(default_factory=dict)  # see `simultaneous`
    n: Counts
    tuned: dict[str, Tuning] = field(default_factory=dict)  # the baselines that were tuned

    def of(self, system: str) -> ByMetric[Figure]:
        """The figures of ours (`mercato`) or of a baseline."""
        return self.ours if system == OURS else self.baselines[system]

    def difference(self, system: str, part: str, metric: str) -> Figure | None:
        """Ours less the baseline; None where one of them has no such figure or the difference no interval."""
        return self._difference(self.differences, system, part, metric)

    def simultaneous(self, system: str, part: str, metric: str) -> Figure | None:
        """The same with the interval that holds together with all others of the page: what a verdict rests on.

        The family is every metric of every search part, of ours less each other encoder and each lexical baseline. None
        outside it (random and the log's baselines: nobody asks of all at once whether one is beaten) and in figures of
        before there was a correction.
        """
        return self._difference(self.simultaneous_differences, system, part, metric)

    def _difference(
        self, intervals: dict[str, ByMetric[Interval | None]], system: str, part: str, metric: str
    ) -> Figure | None:
        interval = intervals.get(system, {}).get(part, {}).get(metric)
        if interval is None:
            return None
        return Figure(self.ours[part][metric].value - self.baselines[system][part][metric].value, interval)

    def as_dict(self) -> dict[str, Any]:
        """The contract: values and intervals as two trees; parts of query prediction follow all others."""
        values, spans = mapped(_value, self.ours), mapped(_ends, self.ours)
        first = [part for part in self.ours if part not in PREDICTION_PARTS]
        last = [part for part in self.ours if part in PREDICTION_PARTS]
        intervals = {
            **_only(spans, first),
            "baselines": {name: mapped(_ends, figures) for name, figures in self.baselines.items()},
            "differences": _plain(self.differences),
            "simultaneous": _plain(self.simultaneous_differences),
            **_only(spans, last),
        }
        return {
            **_only(values, first),
            "baselines": {name: mapped(_value, figures) for name, figures in self.baselines.items()},
            "n": self.n.as_dict(),
            "intervals": intervals,
            **({"tuned": _plain(self.tuned)} if self.tuned else {}),
            **_only(values, last),
        }

    @classmethod
    def from_dict(cls, tree: Mapping[str, Any]) -> Self:
        """The metrics that `as_dict` gave."""
        spans = tree["intervals"]
        ours = {part: values for part, values in tree.items() if part not in NO_PARTS}
        return cls(
            ours=mapped(_figure, ours, spans),
            baselines={
                name: mapped(_figure, values, spans["baselines"][name]) for name, values in tree["baselines"].items()
            },
            differences={name: mapped(_interval, ends) for name, ends in spans["differences"].items()},
            simultaneous_differences={
                name: mapped(_interval, ends) for name, ends in spans.get("simultaneous", {}).items()
            },
            n=Counts.from_dict(tree["n"]),
            tuned={name: Tuning.from_dict(given) for name, given in tree.get("tuned", {}).items()},
        )


def _value(figure: Figure) -> float:
    return figure.value


def _ends(figure: Figure) -> list[float] | None:
    return None if figure.interval is None else [*figure.interval]


def _interval(ends: Any) -> Interval | None:
    return None if ends is None else (ends[0], ends[1])


def _figure(value: float, ends: Any) -> Figure:
    return Figure(value, _interval(ends))


def _only(tree: Mapping[str, T], parts: Iterable[str]) -> dict[str, T]:
    return {part: tree[part] for part in parts}
