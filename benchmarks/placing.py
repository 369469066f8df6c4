"""What seller diversity and exploration of new listings cost a first page, on a market's test queries.

    python benchmarks/placing.py --market MARKET --runs RUN… --indexes URL… --out OUT

Each run has a ranker (`mercato rank`) and the index of the same place. Searches are replayed as a server answers them
(`mercato.experiments.replay`), all at the end of the log, with neither option and with each of `OPTIONS`; their ids, by
which exploration draws, are made of --seed. Figures are means over queries and then over runs; a difference is paired,
its interval the 95 % bootstrap over whole units (`mercato.evaluation.units`).

Shapes: Q queries of the test split with an engaged or a judged product.
"""

from __future__ import annotations

import argparse
import datetime
import json
import random
import time
from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

import mercato
from mercato.benchmarks.machine import machine
from mercato.config.ranking import Diversity, Exploration
from mercato.data.market import Market
from mercato.data.mining import SPLITS
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EvaluationSet, LabelledPairs
from mercato.evaluation.metrics.arrays import FloatArray, IntArray
from mercato.evaluation.metrics.bootstrap import Estimate, estimates, resample
from mercato.evaluation.metrics.metric import QueryMean
from mercato.experiments.replay import Replay
from mercato.files import write_atomic
from mercato.progress import track
from mercato.ranking.ranker import Ranker
from mercato.retrieval.expression import Expression, Filters
from mercato.search.exploration import drawn
from mercato.search.pipeline import Page
from mercato.search.placing import Placing
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.search.request import SearchRequest
from mercato.search.window import Window

PAGE = 24
NEW = Exploration(share=0.1)  # what counts as a new listing
OPTIONS: dict[str, dict[str, Any]] = {
    "neither": {},
    "2 of a seller": {"diversity": Diversity(per_seller=2)},
    "1 of a seller": {"diversity": Diversity(per_seller=1)},
    "10 % to new listings": {"exploration": NEW},
    "25 % to new listings": {"exploration": Exploration(share=0.25)},
    "2 of a seller, 10 % to new": {"diversity": Diversity(per_seller=2), "exploration": NEW},
}
METRICS = {
    "engaged": "share of the future's engaged products",
    "ndcg@10": "nDCG@10 of the judged",
    "sellers": "sellers",
    "new": "new listings",
    "drawn": "drawn",
}
TIMED = (100, 300)  # candidates that the vector and the words bring each
TIMED_QUERIES = 200


def main() -> None:
    """Measure, and write OUT/placing.json and OUT/placing.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", type=Path, required=True)
    parser.add_argument("--runs", type=Path, nargs="+", required=True)
    parser.add_argument("--indexes", nargs="+", required=True, metavar="URL", help="one for each run")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    market = Market.open(given.market)
    dataset = EvaluationSet.read(market, "test", lists=False)
    parts = [pairs.queries for pairs in (dataset.engaged, dataset.relevance) if pairs is not None]
    if not parts:
        raise MercatoError(f"{market.path} has neither engaged pairs of future days nor judgments of the split `test`")
    queries_Q = np.unique(np.concatenate(parts))
    weights_RQ = resample(dataset.units_Q[queries_Q], given.seed)
    found: list[dict[str, dict[str, Estimate]]] = []  # by run, option and metric
    milliseconds = []
    for run, url in zip(given.runs, given.indexes, strict=True):
        ranker = Ranker.of_run(run)
        if ranker is None:
            raise MercatoError(f"{run} has no ranker: `mercato rank {run}` first")
        ranker = replace(ranker, settings=ranker.settings.model_copy(update={"deadline_ms": float("inf")}))
        with Replay.of_run(run, market, url, split_cutoff(market, SPLITS)) as replay:
            policy = RetrievalPolicy.of_run(run, len(replay.index))
            first = FirstPages(dataset, queries_Q, replay, ranker, policy, given.seed)
            values = {name: first.measured(name) for name in OPTIONS}
            milliseconds.append(first.milliseconds())
        found.append(
            {
                name: estimates({metric: QueryMean(values_Q) for metric, values_Q in own.items()}, weights_RQ)
                for name, own in values.items()
            }
        )
    result = {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "mercato": mercato.__version__,
        "machine": machine(),
        "seed": given.seed,
        "n": {
            "runs": len(given.runs),
            "queries": len(queries_Q),
            f"{dataset.unit}s": len(np.unique(dataset.units_Q[queries_Q])),
            "engaged": _queries(dataset.engaged),
            "judged": _queries(dataset.relevance),
        },
        "rows": rows(found),
        "milliseconds": {
            candidates: float(np.mean([own[candidates] for own in milliseconds])) for candidates in milliseconds[0]
        },
    }
    given.out.mkdir(parents=True, exist_ok=True)
    write_atomic(given.out / "placing.json", json.dumps(result, indent=2) + "\n")
    write_atomic(given.out / "placing.md", markdown(result))
    print(markdown(result))


def _queries(pairs: LabelledPairs | None) -> int:
    return 0 if pairs is None else len(pairs.query_rows)


class FirstPages:
    """The first pages of one run's searches."""

    def __init__(
        self,
        dataset: EvaluationSet,
        queries_Q: IntArray,
        replay: Replay,
        ranker: Ranker,
        policy: RetrievalPolicy,
        seed: int,
    ) -> None:
        self.dataset, self.queries_Q, self.replay = dataset, queries_Q, replay
        self.ranker, self.policy, self.seed = ranker, policy, seed

    def measured(self, option: str) -> dict[str, FloatArray]:
        """Each metric of every query, NaN where it is undefined: (Q,)."""
        ranker = replace(self.ranker, settings=self.ranker.settings.model_copy(update=OPTIONS[option]))
        searcher, ids = self.replay.searcher(self.policy, ranker), random.Random(self.seed)
        values: dict[str, list[float]] = {metric: [] for metric in METRICS}
        with patch("mercato.search.pipeline.secrets.token_hex", lambda _: f"{ids.getrandbits(96):024x}"):
            for query in track(self.queries_Q.tolist(), option, len(self.queries_Q)):
                page = searcher.search(self._request(query))
                shown = [hit.product["product_id"] for hit in page.hits]
                values["engaged"].append(engaged_share(shown, self._graded(self.dataset.engaged, query)))
                values["ndcg@10"].append(judged_ndcg(shown, self._graded(self.dataset.relevance, query)))
                values["sellers"].append(len({hit.product["seller_id"] for hit in page.hits}))
                values["new"].append(self._new(page))
                values["drawn"].append(sum(hit.placed_by == "exploration" for hit in page.hits))
        return {metric: np.array(own) for metric, own in values.items()}

    def milliseconds(self) -> dict[int, float]:
        """What both options take of a first page, beyond a ranked search; the median, by candidates."""
        settings = self.ranker.settings.model_copy(update=OPTIONS["2 of a seller, 10 % to new"])
        ranker, taken = replace(self.ranker, settings=settings), {}
        for candidates in TIMED:
            times = []
            for query in self.queries_Q[:TIMED_QUERIES].tolist():
                text, country = self.dataset.queries.row(query)
                vector = self.replay.encoder.encode_queries([text], country)[0]
                hits = self.replay.index.search(Expression(vector=vector, text=text), candidates)
                begun = time.perf_counter()
                placing = Placing.of(ranker, hits, self.replay.as_of, f"{query:024x}", self.policy.deepest)
                window = Window(hits, Effort(ef_search=1, candidates=candidates), whole=True, placing=placing)
                [*islice(window.placed(frozenset(), 1, iter), PAGE + 1)]
                ended = time.perf_counter()
                [*islice(replace(window, placing=None).placed(frozenset(), 1, iter), PAGE + 1)]
                times.append(1000 * (2 * ended - begun - time.perf_counter()))
            taken[candidates] = float(np.median(times))
        return taken

    def _request(self, query: int) -> SearchRequest:
        text, country = self.dataset.queries.row(query)
        at_home = Filters(country=country) if self.dataset.countries is not None else Filters()
        return SearchRequest(query=text, country=country, filters=at_home, page_size=PAGE)

    def _graded(self, pairs: LabelledPairs | None, query: int) -> dict[str, float]:
        if pairs is None:
            return {}
        own = np.flatnonzero(pairs.queries == query)
        names = [self.dataset.product_ids[product] for product in pairs.products[own]]
        return dict(zip(names, pairs.grades[own].tolist(), strict=True))

    def _new(self, page: Page) -> int:
        found = self.replay.index.lookup(Expression(), [hit.product["product_id"] for hit in page.hits])
        return len(drawn(page.query_id[:24], found.signals(), self.ranker.statistics, self.replay.as_of, NEW))


def engaged_share(shown: list[str], engaged: Mapping[str, float]) -> float:
    """The share of the engaged products that a page shows; NaN where there are none."""
    return len(engaged.keys() & set(shown)) / len(engaged) if engaged else float("nan")


def judged_ndcg(shown: list[str], grades: Mapping[str, float], k: int = 10) -> float:
    """nDCG@k of the judged products that a page shows, the others taken out, against the best order of all judged."""
    gains = [grades[product_id] for product_id in shown if product_id in grades]
    best = sorted(grades.values(), reverse=True)
    ideal = _dcg(best[:k])
    return _dcg(gains[:k]) / ideal if ideal else float("nan")


def _dcg(gains: list[float]) -> float:
    return float(np.sum(np.maximum(gains, 0) / np.log2(np.arange(len(gains)) + 2)))


def rows(found: list[dict[str, dict[str, Estimate]]]) -> dict[str, dict[str, Any]]:
    """Each option's figures, the means over runs, and what they are ahead of those of neither."""
    made: dict[str, dict[str, Any]] = {}
    plain = next(iter(OPTIONS))
    for option in OPTIONS:
        made[option] = {}
        for metric in found[0][option]:
            ours, theirs = (_mean([own[name][metric] for own in found]) for name in (option, plain))
            made[option][metric] = {"value": ours.value, "interval": ours.interval}
            if option != plain:
                made[option][metric] |= {"ahead": (ours - theirs).value, "by": (ours - theirs).interval}
    return made


def _mean(runs: list[Estimate]) -> Estimate:
    replicates_R = np.mean([each.replicates_R for each in runs], axis=0)
    return Estimate(float(np.mean([each.value for each in runs])), replicates_R)


def markdown(result: Mapping[str, Any]) -> str:
    """The figures as a table for people."""
    n = ", ".join(f"{count:,} {what}" for what, count in result["n"].items())
    metrics = [metric for metric in METRICS if metric in next(iter(result["rows"].values()))]
    lines = [
        f"First pages of {PAGE}: {n}; seed {result['seed']}; {result['date']}, {result['machine']}.",
        "",
        "| | " + " | ".join(METRICS[metric] for metric in metrics) + " |",
        "|---|" + "--:|" * len(metrics),
    ]
    for option, row in result["rows"].items():
        lines.append(f"| {option} | " + " | ".join(cell(row[metric]) for metric in metrics) + " |")
    times = ", ".join(f"{took:.2f} ms of {candidates}" for candidates, took in result["milliseconds"].items())
    return "\n".join([*lines, "", f"Both options take {times} candidates a part (median)."]) + "\n"


def cell(figure: Mapping[str, Any]) -> str:
    """A figure, and how far it is ahead."""
    text = f"{figure['value']:.3f}"
    if "ahead" in figure:
        low, high = figure["by"]
        text += f" ({figure['ahead']:+.3f} [{low:+.3f}, {high:+.3f}])"
    return text


if __name__ == "__main__":
    main()
