"""`mercato tune`: sweep how a first page is searched on golden queries, choose under constraints, leave it in the run.

Each lever is swept alone from the usual first page. Then every combination of what was worth moving is measured beside
the usual setting. A product of all values would be many times as many, for levers that hardly act on one another.
What is chosen is replayed page by page, as a first page that is cheap alone may make the later ones dear.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, product
from pathlib import Path
from typing import Any

import numpy as np

from mercato.data.market import Market
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EARLIER
from mercato.evaluation.metrics.arrays import FloatArray
from mercato.evaluation.metrics.bootstrap import resample
from mercato.experiments.replay import Replay
from mercato.experiments.tuning.choosing import (
    COST,
    Constraints,
    choose_first,
    choose_later,
    frontier,
)
from mercato.experiments.tuning.golden import GoldenSet
from mercato.experiments.tuning.measuring import EXACT_QUERIES, Bench, Measured
from mercato.experiments.tuning.paging import DEEPER_LATER, Paging, policies, reach, replay
from mercato.experiments.tuning.settings import (
    CANDIDATES,
    EF_SEARCH,
    TEXT_CANDIDATES,
    Lever,
    Setting,
    Stages,
    least_cosines,
    stages_of,
    varied,
)
from mercato.files import write_atomic
from mercato.progress import note, track
from mercato.ranking.ranker import Ranker
from mercato.retrieval.expression import Expression
from mercato.runs.folder import RETRIEVAL, load_min_cosine, load_retrieval
from mercato.search.policy import Effort, RetrievalPolicy


@dataclass(frozen=True)
class Tuned:
    """What `mercato tune` found."""

    run: str
    market: str
    seed: int
    golden: GoldenSet
    constraints: Constraints
    usual: Setting  # of a first page that nobody has tuned; the sweep begins there
    measured: Sequence[Measured]  # every setting, in the order in which they were looked at
    by_lever: Mapping[Lever, Sequence[Measured]]  # of these, what differs from the usual one in this lever alone
    first: Measured  # as good as any for a first page; where none keeps to the constraints, the nearest
    later: Measured | None  # for later pages; None where there is no such first page
    paging: Paging | None  # None too where the market has no lists that tell how far searches go
    pages: tuple[Effort, ...] | None  # that were written
    refused: str | None  # why none were

    @property
    def serving(self) -> Stages:
        """The stages that the run serves with."""
        return self.usual.stages

    @property
    def frontier(self) -> list[Measured]:
        """Of the settings with the stages that serve, those that no other one beats."""
        return frontier([each for each in self.measured if each.setting.stages == self.serving])

    def as_dict(self) -> dict[str, Any]:
        """What `mercato tune --json` prints."""
        best = [each.setting for each in self.frontier]
        return {
            "run": self.run,
            "market": self.market,
            "seed": self.seed,
            "golden": {"queries": self.golden.counts(), "unit": self.golden.unit},
            "constraints": asdict(self.constraints),
            "settings": [
                each.setting.as_dict()
                | {"frontier": each.setting in best, "figures": each.figures, "intervals": each.intervals}
                for each in self.measured
            ],
            "first": self.first.setting.as_dict(),
            "later": self.later and self.later.setting.as_dict(),
            "paging": self.paging and self.paging.as_dict(),
            "pages": self.pages and [asdict(effort) for effort in self.pages],
            "refused": self.refused,
        }


def tune(run: Path, market: Market, url: str, constraints: Constraints, seed: int = 0) -> Tuned:
    """Choose how hard a run's index is searched for each page, and write it to the run's `retrieval.json`.

    Where no setting keeps to the constraints, or no policy does once it is replayed, nothing is written and
    `Tuned.refused` says why.

    Raises:
        MercatoError: the market has nothing to tune by or no judgments to be precise by, or the index was not made by
            this run.
    """
    golden = GoldenSet.read(market, seed)
    if constraints.precision is not None and not any(query.grades for query in golden.queries):
        raise MercatoError(
            f"{market.path} has no judgments of the split `validation`: how precise a search is cannot be told, so"
            " --precision cannot be kept to"
        )
    rankers = stages_of(Ranker.of_run(run))
    serving = [*rankers][-1]
    least = load_min_cosine(run)
    later = paging = pages = refused = None
    with Replay.of_run(run, market, url, split_cutoff(market, EARLIER["test"])) as opened:
        usual = RetrievalPolicy.usual(len(opened.index), least)
        note(f"  {len(golden.queries)} golden queries: {golden.counts()}")
        bench = Bench(opened, rankers, golden, resample(golden.units_Q, seed), _nearest(opened, golden))
        swept = _sweep(bench, Setting(usual.effort(0), serving), constraints)
        if broken := constraints.broken(swept.first):
            refused = f"no setting keeps to the constraints; the nearest breaks {' and '.join(broken)}"
        else:
            others = [each for each in swept.measured if each.setting != swept.first.setting]
            served = [swept.first, *(each for each in others if each.setting.stages == serving)]
            later = choose_later(served, constraints, swept.first)
            compared = policies(swept.first.setting.effort, later.setting.effort, usual)
            pages = compared[DEEPER_LATER]
            if reached := reach(market):
                precise = {each.setting.effort for each in served if not constraints.without_times.broken(each)}
                paging = replay(
                    bench,
                    reached,
                    compared,
                    serving,
                    lambda each: (
                        (constraints.precision is None or each.pages[0] in precise)
                        and constraints.kept_by(each.first_p99_ms, each.first_precision)
                    ),
                )
                pages = compared[paging.chosen] if paging.chosen else None
            if pages is None:
                refused = (
                    "replayed page by page, no policy's first page keeps to the constraints: allow more, or tune on a"
                    " machine that does nothing else"
                )
    if pages is not None:
        write_pages(run, pages)
    return Tuned(
        run.name, market.config.name, seed, golden, constraints, Setting(usual.effort(0), serving), swept.measured,
        swept.by_lever, swept.first, later, paging, pages, refused,
    )  # fmt: skip


def write_pages(run: Path, pages: Sequence[Effort]) -> None:
    """Write a page policy to a run's `retrieval.json`; what else is there stays."""
    stored = load_retrieval(run)
    write_atomic(run / RETRIEVAL, json.dumps(stored | {"pages": [asdict(effort) for effort in pages]}, indent=1) + "\n")


@dataclass(frozen=True)
class _Swept:
    measured: Sequence[Measured]
    by_lever: Mapping[Lever, Sequence[Measured]]
    first: Measured


def _sweep(bench: Bench, usual: Setting, constraints: Constraints) -> _Swept:
    """Measure each lever alone, then what was worth moving together, and choose for the first page."""
    stages = usual.stages
    levers: dict[Lever, Sequence[float | None]] = {
        "min_cosine": least_cosines(_cosines(bench, usual.effort), usual.effort.min_cosine),
        "text_candidates": (None, *TEXT_CANDIDATES),
        "candidates": CANDIDATES,
        "ef_search": sorted({*EF_SEARCH, usual.effort.ef_search}),
    }
    alone = {
        lever: [
            Setting(effort, each)
            for effort in varied(usual.effort, lever, values)
            for each in (bench.rankers if lever == "min_cosine" else (stages,))
        ]
        for lever, values in levers.items()
    }
    settings = list(dict.fromkeys([usual, *chain.from_iterable(alone.values())]))
    measured = dict(zip(settings, bench.measure(settings, f"{len(settings)} settings, a lever at a time"), strict=True))
    moved = [
        choose_first([measured[each] for each in alone[lever] if each.stages == stages], constraints, measured[usual])
        for lever in levers
    ]
    kept_or_moved = [
        dict.fromkeys((getattr(usual.effort, lever), getattr(each.setting.effort, lever)))
        for lever, each in zip(levers, moved, strict=True)
    ]
    together = [
        Setting(replace(usual.effort, **dict(zip(levers, values, strict=True))), stages)
        for values in product(*kept_or_moved)
    ]
    beside = [measured[setting] for setting in together if setting in measured]
    if len(beside) < len(together):  # all of them again, as times are of one moment, at the first pass's pace
        again = bench.measure(together, f"{len(together)} settings, what was worth moving together")
        pace = measured[usual].estimates[COST].value / again[together.index(usual)].estimates[COST].value
        beside = [each.at_pace(pace) for each in again]
    by_lever = {lever: [measured[each] for each in alone[lever]] for lever in levers}
    standing = next(each for each in beside if each.setting == usual)
    first = choose_first(beside, constraints, standing)
    new = [each for each in beside if each.setting not in measured]
    return _Swept([*measured.values(), *new], by_lever, first)


def _cosines(bench: Bench, usual: Effort) -> FloatArray:
    """The cosines of what the vectors of all golden queries find without a bound. Everything is warm then."""
    hits = [bench.retrieved(query, replace(usual, min_cosine=None)) for query in bench.golden.queries]
    return np.concatenate([some.cosine_H[some.by_ann_H] for some in hits])


def _nearest(opened: Replay, golden: GoldenSet) -> dict[int, dict[str, float]]:
    """The nearest products of the first golden queries by an exact scan: their cosines, best first."""
    found = {}
    for place, query in enumerate(track(golden.queries[:EXACT_QUERIES], "exact nearest")):
        vector = opened.encoder.encode_queries([query.query], query.country)[0]
        hits = opened.index.lookup(Expression(vector=vector), golden.products[query.within])
        best_h = np.argsort(-hits.cosine_H, kind="stable")[: max(CANDIDATES)]
        some = hits.take(best_h)
        found[place] = dict(zip(some.product_ids, some.cosine_H.tolist(), strict=True))
    return found
