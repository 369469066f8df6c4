"""`mercato demo`: the whole path on a simulated market, each stage by the function that its own verb calls.

It trains both papers' models, and serves the better one with both ranking stages.
"""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from mercato.catalogue.indexing import index_market
from mercato.data.checking import check
from mercato.data.market import MARKET, Market
from mercato.data.mining import SPLITS, mine
from mercato.data.pairs import split_cutoff
from mercato.errors import MercatoError
from mercato.evaluation.results import Figure, Metrics
from mercato.experiments.ablation.jobs import THREADS
from mercato.files import ensure_replaceable, market_lock, write_atomic
from mercato.progress import console, note
from mercato.ranking.ranker import FOLDER
from mercato.ranking.train import Ranked
from mercato.reports import ranking
from mercato.reports.charts import decimal
from mercato.reports.evaluate import compare_runs, evaluate_runs, summary
from mercato.reports.headlines import Headline
from mercato.reports.html import signed
from mercato.runs.export import parity
from mercato.runs.folder import RECIPE, SPEC
from mercato.runs.latency import exported, latency
from mercato.runs.torch_encoder import TorchEncoder
from mercato.serving.server import serve_run
from mercato.simulation.simulate import NAME, simulate
from mercato.training.train import partial_folder

STAGES = ("simulate", "check", "mine", "train", "evaluate", "export", "index", "rank")
RECIPES = ("que2search", "que2engage")
README, HEADING = "README.md", "# A demo of Mercato\n"
CHOSEN_BY = {  # by which metrics, the first that is defined, a model is chosen to serve
    "engagement": ("roc_auc_exposure_matched", "roc_auc"),
    "relevance": ("roc_auc_per_query", "roc_auc"),
}


def run_demo(folder: Path, size: str, seed: int, port: int | None) -> None:
    """Simulate, check, mine, train, evaluate, export, index, rank; then serve on `port`, or not where it is None.

    Which model is served, why, and how to serve it again, is left in DIR/README.md. A demo that stands in `folder` is
    replaced, with what was written through its API; a folder with anything else is refused.
    """
    market_path, index = folder / "market", folder / "index"
    runs = {recipe: folder / "runs" / recipe for recipe in RECIPES}
    _clear(folder)
    begun = time.perf_counter()

    @contextmanager
    def stage(name: str) -> Iterator[None]:
        start = time.perf_counter()
        console.print(Rule(f"{STAGES.index(name) + 1}/{len(STAGES)} {name}", align="left"))
        yield
        note(f"  [dim]{name}: {time.perf_counter() - start:.0f} s, {time.perf_counter() - begun:.0f} s in all[/]")

    with stage("simulate"):
        simulate(market_path, size, seed)
    with stage("check"):
        problems = [problem for problem in check(market_path) if problem.severity == "error"]
        if problems:
            raise MercatoError("\n".join(map(str, problems)))
        note("  no errors")
    with stage("mine"):
        console.print(mine(Market.open(market_path)))
    market = Market.open(market_path)
    with stage("train"):
        _train(runs, market_path)
    with stage("evaluate"):
        metrics = dict(zip(runs, evaluate_runs(list(runs.values()), market), strict=True))
        # The test split says how good a model is, not which one to take.
        chosen, why = choose(compare_runs(list(runs.values()), market), *RECIPES)
    run = runs[chosen]
    with stage("export"):
        console.print(exported(parity(TorchEncoder.load(run), run), latency(run)))  # training has written them
    with stage("index"):
        index_market(run, market, str(index), split_cutoff(market, SPLITS))  # the simulated log ends long ago
    with stage("rank"):
        ranked = _rank(run, market, index)
    console.print(Rule("what was learned", align="left"))
    Console().print(summary(metrics[chosen], chosen))  # the result, on stdout
    reports = [path / "report.html" for path in runs.values()]
    if ranked:
        Console().print(ranking.summary(ranked))
        reports.append(run / FOLDER / ranking.REPORT)
    for report in reports:
        note(escape(f"report: {report}"))
    command = serving_command(run, market_path, index)
    why = f"{why} These are figures of the validation split."
    write_atomic(folder / README, f"{HEADING}\n{chosen} is served. {why}\n\n    {command}\n")
    note(f"[bold]{chosen} is served.[/] {escape(why)}")
    if port is not None:
        serve_run(run, market, str(index), "127.0.0.1", port)
    else:
        note(escape(f"serve it: {command}"))


def _rank(run: Path, market: Market, index: Path) -> Ranked | None:
    """Both ranking stages; None where they are not worth having, as may be on a tiny market."""
    try:
        return ranking.rank_run(run, market, str(index))
    except MercatoError as error:
        note(f"  [yellow]served in the order of the cosine:[/] {escape(str(error))}")
        return None


def choose(metrics: Metrics, ours: str, other: str) -> tuple[str, str]:
    """Which of two models to serve, and why in plain words: the one ahead on engagement, unless relevance forbids.

    Engagement is told free of exposure, relevance per query (`CHOSEN_BY`). Relevance forbids where the paired 95 %
    interval of the difference lies below 0: the model is behind by more than chance.

    Args:
        metrics: those of the model called `ours`, with `other` among its baselines; not of the test split.
    """
    told = {part: _first_of(metrics, other, part) for part in CHOSEN_BY}

    def values(part: str) -> dict[str, float]:
        by = told[part]
        return {ours: metrics.ours[part][by.metric].value, other: metrics.baselines[other][part][by.metric].value}

    def compared(part: str, leader: str) -> tuple[str, float, float]:
        """The leader's figure against the other's, in words, and the interval of the difference."""
        low, high = _interval(metrics.difference(other, part, told[part].metric))
        if leader == other:
            low, high = -high, -low
        behind = other if leader == ours else ours
        figures = values(part)
        difference = figures[leader] - figures[behind]
        words = (
            f"{told[part].label} {decimal(figures[leader])} against {decimal(figures[behind])} ({signed(difference)}"
        )
        return f"{words}, 95 % interval {signed(low)} to {signed(high)})", low, high

    leader, behind = (ours, other) if values("engagement")[ours] >= values("engagement")[other] else (other, ours)
    engagement, low, _ = compared("engagement", leader)
    relevance, _, high = compared("relevance", leader)
    ahead = f"is ahead of {behind} on engagement" + ("" if low > 0 else ", though no more than chance would have it")
    if high < 0:
        return behind, f"{leader} {ahead}, but behind on relevance by more than chance: {engagement}, {relevance}."
    return leader, f"It {ahead}, and not behind on relevance by more than chance: {engagement}, {relevance}."


def _first_of(metrics: Metrics, other: str, part: str) -> Headline:
    """The first metric to choose by that is defined for both; a tiny market may lack what exposure matching needs."""
    defined = [name for name in CHOSEN_BY[part] if metrics.difference(other, part, name)]
    return Headline.of_metric(part, defined[0])


def _interval(difference: Figure | None) -> tuple[float, float]:
    assert difference and difference.interval  # both models were measured on the same queries
    return difference.interval


def serving_command(run: Path, market: Path, index: Path) -> str:
    """What serves the run again, as a shell reads it."""
    return shlex.join(["mercato", "serve", str(run), "--market", str(market), "--index", str(index)])


def _train(runs: Mapping[str, Path], market_path: Path) -> None:
    """`mercato train` of every recipe at once, each in its own process; what they say is told line by line.

    Raises:
        MercatoError: one of them failed, which does not stop the others.
    """
    threads = max(1, (os.cpu_count() or 1) // len(runs))
    width = max(map(len, runs))
    environment = (
        os.environ | dict.fromkeys(THREADS, str(threads)) | {"COLUMNS": str(max(40, console.width - width - 4))}
    )

    def follow(recipe: str, process: subprocess.Popen[str]) -> str | None:
        """Retell what a process says until it ends; what went wrong."""
        assert process.stderr is not None
        last: deque[str] = deque(maxlen=5)
        for line in process.stderr:
            last.append(line.rstrip())
            note(f"  [dim]{recipe:<{width}}[/]  {escape(last[-1])}")
        return "\n".join([f"training {recipe} failed:", *last]) if process.wait() else None

    with ThreadPoolExecutor(len(runs)) as pool:
        processes = {
            recipe: subprocess.Popen(
                [sys.executable, "-m", "mercato.cli", "train", recipe, "--market", market_path, "--out", run],
                stderr=subprocess.PIPE,
                text=True,
                env=environment,
            )
            for recipe, run in runs.items()
        }
        try:
            failures = list(filter(None, pool.map(follow, processes, processes.values())))
        finally:  # interrupted
            for process in processes.values():
                process.terminate()
    if failures:
        raise MercatoError("\n".join(failures))


def _clear(folder: Path) -> None:
    """Remove an earlier demo from `folder`; a MercatoError where any of it may not be a demo's."""
    market_path, index, runs_folder, readme = (folder / name for name in ("market", "index", "runs", README))
    runs = [runs_folder / recipe for recipe in RECIPES]
    own = {folder: {market_path, index, runs_folder, readme}, runs_folder: {*runs, *map(partial_folder, runs)}}
    for place, parts in own.items():
        ensure_replaceable(place, ())
        if place.is_dir() and (foreign := sorted(path.name for path in {*place.iterdir()} - parts)):
            raise MercatoError(
                f"{place} holds other things than a demo ({', '.join(foreign[:3])}): name an empty or a new folder"
            )
    for path, markers in {market_path: (MARKET,), index: ("current",), **dict.fromkeys(runs, (RECIPE, SPEC))}.items():
        ensure_replaceable(path, markers)
    if readme.exists() and not (readme.is_file() and readme.read_bytes().startswith(HEADING.encode())):
        raise MercatoError(f"{readme} is not a demo's: name an empty or a new folder")
    if (market_path / MARKET).is_file():
        if (name := Market.open(market_path).config.name) != NAME:
            raise MercatoError(f"{market_path} is the market {name!r}, not a demo's: name an empty or a new folder")
        with market_lock(market_path):
            note(escape(f"replacing the demo in {folder}"))
            shutil.rmtree(market_path)
    for path in (market_path, index, runs_folder):
        shutil.rmtree(path, ignore_errors=True)
    readme.unlink(missing_ok=True)
