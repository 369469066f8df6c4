"""Que2Search's Table 5 offline: what does each rung of the ladder add to the first page that a searcher sees?

    python benchmarks/ladder.py --market DIR --trigrams RUN… --que2search RUN… [--que2engage RUN…] --out DIR

Words alone, then retrieval by a trigram-only model, by Que2Search, its cosine as a ranking feature, Que2Engage: a
ranker is there from the first rung on. Every page goes the way of a served one (retrieved, ranked, cut, read from the
catalogue), and is held to what people engage with on future days and to judgments. Several runs of a model are several
seeds. Indexes and pages are kept in OUT/work: the same command goes on where it was stopped. OUT has a JSON a rung, and
ladder.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import mercato
from mercato.benchmarks.machine import machine
from mercato.catalogue.indexing import index_market, products_fingerprint, run_fingerprint
from mercato.data.market import Market
from mercato.data.mining import SPLITS
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.dataset import EARLIER
from mercato.evaluation.metrics.bootstrap import Estimate, interval
from mercato.experiments.ablation.statistics import Residual, difference, holm
from mercato.experiments.page_figures import COUNTS, MEASURES, HeldOut
from mercato.experiments.pages import FirstPages, first_pages
from mercato.experiments.replay import Replay
from mercato.files import atomic_files, write_atomic
from mercato.progress import note
from mercato.ranking.ranker import Ranker
from mercato.ranking.train import Lessons
from mercato.reports.charts import decimal
from mercato.reports.html import signed
from mercato.runs.folder import load_recipe_and_featurizer
from mercato.search.policy import RetrievalPolicy
from mercato.search.request import Mode

PAGE = 24  # products
UNHURRIED = 1e9  # ms: a replay waits for every stage


@dataclass(frozen=True, kw_only=True)
class Rung:
    """One row of the table."""

    title: str
    model: str  # whose index is searched
    above: str | None = None  # the row that it is compared with
    without: tuple[str, ...] | None = None  # features that its ranker does without; None: there is no ranker
    mode: Mode = "hybrid"
    by_words: bool = False  # no product is found by its vector, though every cosine is known
    paper: str = ""  # its gain over the row above, of engagement in conversations

    @property
    def searched(self) -> tuple[Any, ...]:
        """What decides its pages, beside run and seed."""
        return self.without, self.mode, self.by_words


OF_A_MODEL = ("cosine", "head")  # features; without both a ranker reads nothing of one
HEADLESS = ("head",)  # what the paper adds is the cosine, and not every run has a head

RUNGS = {
    "words": Rung(title="Words alone", model="trigrams", without=OF_A_MODEL, by_words=True),
    "trigrams": Rung(
        title="+ retrieval by trigrams", model="trigrams", above="words", without=OF_A_MODEL, paper="+3.3 %"
    ),
    "que2search": Rung(
        title="by Que2Search instead", model="que2search", above="trigrams", without=OF_A_MODEL, paper="+2.80 %"
    ),
    "cosine": Rung(
        title="+ cosine as a ranking feature",
        model="que2search",
        above="que2search",
        without=HEADLESS,
        paper="+1.24 %",
    ),
    "que2engage": Rung(title="Que2Engage instead", model="que2engage", above="cosine", without=HEADLESS),
    "control-bm25": Rung(title="Control: BM25, no ranker", model="trigrams", above="words", mode="text"),
    "control-cosine-alone": Rung(
        title="Control: Que2Search's cosine, no ranker", model="que2search", above="cosine", paper="less"
    ),
}


def main() -> None:
    """Search for what was not searched for yet, then write OUT/01-words.json, … and OUT/ladder.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--market", type=Path, required=True, help="a mined market, with judgments")
    parser.add_argument("--trigrams", type=Path, nargs="+", required=True, metavar="RUN")
    parser.add_argument("--que2search", type=Path, nargs="+", required=True, metavar="RUN")
    parser.add_argument("--que2engage", type=Path, nargs="+", default=[], metavar="RUN")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    market = Market.open(given.market)
    runs = {name: getattr(given, name) for name in ("trigrams", "que2search", "que2engage") if getattr(given, name)}
    seeds = seeds_of(runs)
    rungs = {name: rung for name, rung in RUNGS.items() if rung.model in runs}
    held = HeldOut.of(market)
    found: dict[str, list[FirstPages]] = {name: [] for name in rungs}
    for place, seed in enumerate(seeds):
        own = {model: several[place] for model, several in runs.items()}
        for name, pages in climb(market, own, rungs, seed, held, given.out / "work"):
            found[name].append(pages)
    rows = compare(rungs, {name: [held.estimates(pages) for pages in several] for name, several in found.items()})
    told = {
        "market": {"name": market.config.name, "fingerprint": market.fingerprint()},
        "n": held.measured_on(),
        "seeds": seeds,
        "mercato": mercato.__version__,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": machine(),
    }
    for number, (name, row) in enumerate(rows.items(), 1):
        counts = [held.counts(pages) for pages in found[name]]
        row["counts"] = {count: float(np.mean([each[count] for each in counts])) for count in counts[0]}
        used = [run.name for run in runs[rungs[name].model]]
        write_atomic(
            given.out / f"{number:02}-{name}.json",
            json.dumps(asdict(rungs[name]) | {"runs": used} | told | row, indent=1),
        )
    table = markdown(rungs, rows, told)
    write_atomic(given.out / "ladder.md", table)
    print(table)


def seeds_of(runs: Mapping[str, Sequence[Path]]) -> list[int]:
    """The seeds that every model was trained with.

    Raises:
        MercatoError: they are not the same, in the same order.
    """
    seeds = {model: [load_recipe_and_featurizer(run)[0].seed for run in several] for model, several in runs.items()}
    first, *others = seeds
    for model in others:
        if seeds[model] != seeds[first]:
            raise MercatoError(
                f"the runs of --{model} have the seeds {seeds[model]}, those of --{first} {seeds[first]}: rows are"
                " compared seed by seed, so give runs of the same seeds in the same order"
            )
    return seeds[first]


# --- pages


def climb(
    market: Market, runs: Mapping[str, Path], rungs: Mapping[str, Rung], seed: int, held: HeldOut, work: Path
) -> Iterator[tuple[str, FirstPages]]:
    """The first pages of every rung, with one run of each model and rankers of this seed.

    They are otherwise what Que2Search's recipe says. One that reads nothing of a model serves all rungs that have it.
    """
    settings = load_recipe_and_featurizer(runs["que2search"])[0].ranking.model_copy(
        update={"deadline_ms": UNHURRIED, "exploration": None}
    )
    rankers: dict[tuple[str, ...] | None, Ranker] = {}
    products = len(market.frame("products", ["product_id"]))
    for model, run in runs.items():
        made_of = [mercato.__version__, market.fingerprint(), run_fingerprint(run), seed, settings.model_dump_json()]
        own = {name: rung for name, rung in rungs.items() if rung.model == model}
        policies = {name: policy(rung, run, products) for name, rung in own.items()}
        kept = {
            name: Kept(work / f"{name}-{seed}.npz", json.dumps([*own[name].searched, repr(policies[name]), *made_of]))
            for name in own
        }
        missing = [name for name in own if kept[name].pages is None]
        if missing:
            url = work / f"index-{run_fingerprint(run)}-{products_fingerprint(market)}"
            if not url.exists():
                index_market(run, market, str(url), as_of=split_cutoff(market, EARLIER["test"]))
            with Replay.of_run(run, market, str(url), as_of=split_cutoff(market, SPLITS)) as replay:
                rankers = {without: ranker for without, ranker in rankers.items() if without == OF_A_MODEL}
                if lacking := {own[name].without for name in missing} - {None, *rankers}:
                    lessons = Lessons.of(market, replay.encoder, replay.index, settings.gains)
                    for without in lacking:
                        kind = settings.model_copy(update={"without": (*settings.without, *without)})
                        rankers[without] = lessons.learned(kind, seed).ranker
                for name in missing:
                    note(f"[bold]{own[name].title}[/], seed {seed}")
                    searcher = replay.searcher(policies[name], rankers.get(own[name].without))
                    kept[name].keep(first_pages(searcher, held.dataset, held.queries_Q, PAGE, own[name].mode))
        for name in own:
            pages = kept[name].pages
            assert pages is not None
            yield name, pages


def policy(rung: Rung, run: Path, products: int) -> RetrievalPolicy:
    """How the run's index of so many products is searched: as it says itself; by words alone no cosine is enough."""
    own = RetrievalPolicy.of_run(run, products)
    return replace(own, pages=tuple(replace(each, min_cosine=1.0) for each in own.pages)) if rung.by_words else own


@dataclass(frozen=True)
class Kept:
    """The pages of one rung and seed in a file, as long as they are made of the same."""

    file: Path
    made_of: str

    @property
    def pages(self) -> FirstPages | None:
        """None where there are none, or of something else."""
        if not self.file.is_file():
            return None
        arrays = dict(np.load(self.file))
        return FirstPages(**arrays) if arrays.pop("made_of") == self.made_of else None

    def keep(self, pages: FirstPages) -> None:
        """Write them."""
        with atomic_files(self.file) as (fresh,), fresh.open("wb") as written:
            np.savez_compressed(written, made_of=np.array(self.made_of), **vars(pages))


# --- figures


def compare(
    rungs: Mapping[str, Rung], found: Mapping[str, Sequence[Mapping[str, Estimate]]]
) -> dict[str, dict[str, Any]]:
    """The figures of every rung, and its difference to the one above, paired by seed and by query.

    Intervals and p-values are those of an ablation study (docs/evaluation.md): over seeds and queries, p by Holm's
    method over all differences of the table.
    """
    rows: dict[str, dict[str, Any]] = {name: {"figures": {}, "differences": {}} for name in rungs}
    ps: list[tuple[dict[str, Any], float]] = []
    for measure in next(iter(found.values()))[0]:
        values = {name: np.array([each[measure].value for each in several]) for name, several in found.items()}
        replicates = {
            name: np.stack([each[measure].replicates_R for each in several]) for name, several in found.items()
        }
        residual = Residual.of(np.stack([values[name] for name, rung in rungs.items() if rung.mode != "text"]))
        for name, rung in rungs.items():
            rows[name]["figures"][measure] = {
                "value": float(values[name].mean()),
                "interval": interval(replicates[name].mean(axis=0)),
                "seeds": values[name].tolist(),
            }
            if rung.above:
                step = difference(values[name], values[rung.above], replicates[name], replicates[rung.above])
                own = {"value": step.value, "interval": step.interval}
                rows[name]["differences"][measure] = own
                ps.append((own, step.p(residual)))
    for (own, _), p in zip(ps, holm([p for _, p in ps]), strict=True):
        own["p"] = p
    return rows


def markdown(rungs: Mapping[str, Rung], rows: Mapping[str, Mapping[str, Any]], told: Mapping[str, Any]) -> str:
    """The figures, what each rung adds, and what the pages are made of."""
    n = "; ".join(f"{part}: {own['pairs']:,} pairs of {own['queries']:,} queries" for part, own in told["n"].items())
    first = next(iter(rows.values()))
    lines = [f"{n}; seeds {', '.join(map(str, told['seeds']))}; {told['date']}, {told['machine']}.", ""]
    lines += heads("first page", [*first["figures"], *first["counts"]])
    for name, row in rows.items():
        figures = [decimal(each["value"]) for each in row["figures"].values()]
        lines.append(cells(rungs[name].title, [*figures, *(f"{count:.1f}" for count in row["counts"].values())]))
    lines += ["", *heads("adds to the one above it", ["paper", *first["figures"]])]
    for name, row in rows.items():
        if above := rungs[name].above:
            title = f"{rungs[name].title}, less: {rungs[above].title}"
            lines.append(cells(title, [rungs[name].paper, *map(added, row["differences"].values())]))
    lines += ["", "Bold: the interval excludes 0, and p < .05 by Holm's method over the table.", ""]
    lines += [f"- **{name}**: {meaning}" for name, meaning in (MEASURES | COUNTS).items()]
    return "\n".join(lines) + "\n"


def heads(first: str, others: Sequence[str]) -> list[str]:
    """The first two lines of a table."""
    return [cells(first, others), "|---|" + "--:|" * len(others)]


def cells(first: str, others: Sequence[str]) -> str:
    """A line of one."""
    return f"| {first} | {' | '.join(others)} |"


def added(own: Mapping[str, Any]) -> str:
    """A difference with its interval."""
    low, high = own["interval"]
    mark = "**" if own["p"] < 0.05 and not low <= 0 <= high else ""
    return f"{mark}{signed(own['value'])}{mark} [{signed(low)}, {signed(high)}]"


if __name__ == "__main__":
    main()
