"""`mercato tune`: sweep how a first page is searched on golden queries, choose under constraints, leave it in the run.

The levers are swept one after the other, the others staying where the levers before have put them: a product of all
their values would be ten times as many settings as are looked at here, for levers that hardly act on one another.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
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
    SHOWN,
    Constraints,
    cheapest_as_good,
    choose,
    frontier,
    nearest_to,
    page_policy,
)
from mercato.experiments.tuning.golden import GoldenSet
from mercato.experiments.tuning.measuring import EXACT_QUERIES, Bench, Measured
from mercato.experiments.tuning.paging import Paging, reach, replay
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
from mercato.runs.folder import RETRIEVAL, load_min_cosine
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
    by_lever: Mapping[str, Sequence[Measured]]  # of these, what differs in one lever from where it stood
    first: Measured | None  # None: no setting meets the constraints
    later: Measured | None
    paging: Paging | None  # None where nothing was chosen, or the market has no lists that tell how far searches go
    refused: str | None  # why nothing was written

    @property
    def serving(self) -> Stages:
        """The stages that the run serves with."""
        return self.usual.stages

    @property
    def pages(self) -> tuple[Effort, ...] | None:
        """The policy that was chosen; None where no setting meets the constraints."""
        return page_policy(self.first.setting.effort, self.later.setting.effort) if self.first and self.later else None

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
            "chosen": None if self.pages is None else {"pages": [asdict(effort) for effort in self.pages]},
            "refused": self.refused,
            "paging": None if self.paging is None else self.paging.as_dict(),
        }


def tune(run: Path, market: Market, url: str, constraints: Constraints, seed: int = 0) -> Tuned:
    """Choose how hard a run's index is searched for each page, and write it to the run's `retrieval.json`.

    Where no setting meets the constraints, or the chosen policy breaks them once it is replayed, nothing is written and
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
    with Replay.of_run(run, market, url, split_cutoff(market, EARLIER["test"])) as opened:
        note(f"  {len(golden.queries)} golden queries: {golden.counts()}")
        bench = Bench(opened, rankers, golden, resample(golden.units_Q, seed), _nearest(opened, golden))
        usual = replace(RetrievalPolicy().effort(0), min_cosine=load_min_cosine(run))
        sweep = _Sweep(bench, serving, constraints)
        by_lever = sweep.run(usual)
        measured = sweep.measured
        served = [each for each in measured if each.setting.stages == serving]
        chosen = choose(served, constraints)
        reached = reach(market) if chosen else None
        policy = page_policy(chosen[0].setting.effort, chosen[1].setting.effort) if chosen else ()
        paging = replay(bench, reached, policy, serving) if reached else None
    refused = None
    if chosen is None:
        refused = _unmet(nearest_to(constraints, served), constraints)
    elif paging and constraints.p99_ms is not None and paging.first_p99_ms > constraints.p99_ms:
        refused = (
            f"the chosen policy's first page, replayed, breaks p99 {paging.first_p99_ms:.1f} ms >"
            f" {constraints.p99_ms:g} ms: allow more, or tune on a machine that does nothing else"
        )
    tuned = Tuned(
        run=run.name,
        market=market.config.name,
        seed=seed,
        golden=golden,
        constraints=constraints,
        usual=Setting(usual, serving),
        measured=measured,
        by_lever=by_lever,
        first=chosen[0] if chosen else None,
        later=chosen[1] if chosen else None,
        paging=paging,
        refused=refused,
    )
    if refused is None:
        write_pages(run, policy)
    return tuned


def write_pages(run: Path, policy: Sequence[Effort]) -> None:
    """Write a page policy to a run's `retrieval.json`; what else is there stays."""
    stored = json.loads((run / RETRIEVAL).read_text())
    write_atomic(
        run / RETRIEVAL, json.dumps(stored | {"pages": [asdict(effort) for effort in policy]}, indent=1) + "\n"
    )


class _Sweep:
    """Settings measured one lever after the other."""

    def __init__(self, bench: Bench, serving: Stages, constraints: Constraints) -> None:
        self._bench, self._serving, self._constraints = bench, serving, constraints
        self.measured: list[Measured] = []

    def run(self, usual: Effort) -> dict[str, Sequence[Measured]]:
        """Measure all of them, and return them by lever."""
        cosines = self._cosines(usual)  # and everything is warm then
        at = usual
        found: dict[str, Sequence[Measured]] = {}
        levers: dict[Lever, Sequence[float | None]] = {
            "min_cosine": least_cosines(cosines, usual.min_cosine),
            "text_candidates": (None, *TEXT_CANDIDATES),
            "candidates": CANDIDATES,
            "ef_search": EF_SEARCH,
        }
        for lever, values in levers.items():
            stages = [*self._bench.rankers] if lever == "min_cosine" else [self._serving]
            block = self._measure(varied(at, lever, values), stages, lever)
            found[lever] = block
            at = self._best([each for each in block if each.setting.stages == self._serving]).setting.effort
        self._measure([at], [*self._bench.rankers], "stages")
        found["stages"] = [each for each in self.measured if each.setting.effort == at]
        return found

    def _best(self, block: Sequence[Measured]) -> Measured:
        allowed = [each for each in block if not self._constraints.broken(each)]
        return cheapest_as_good(allowed, SHOWN) if allowed else nearest_to(self._constraints, block)

    def _measure(self, efforts: Sequence[Effort], stages: Sequence[Stages], what: str) -> list[Measured]:
        """These settings, the ones that are known already as they were."""
        wanted = [Setting(effort, each) for effort in efforts for each in stages]
        known = {each.setting for each in self.measured}
        fresh = [setting for setting in wanted if setting not in known]
        self.measured += self._bench.measure(fresh, f"{what}: {len(fresh)} settings on each golden query")
        return [each for each in self.measured if each.setting in wanted]

    def _cosines(self, usual: Effort) -> FloatArray:
        """The cosines of what the vectors of all golden queries find without a bound."""
        hits = [self._bench.retrieved(query, replace(usual, min_cosine=None)) for query in self._bench.golden.queries]
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


def _unmet(nearest: Measured, constraints: Constraints) -> str:
    levers = ", ".join(f"{name} {value}" for name, value in nearest.setting.as_dict().items())
    broken = " and ".join(constraints.broken(nearest))
    return f"no setting meets the constraints; the nearest breaks {broken}: {levers}"
