"""`mercato demo`: the whole path on a simulated market, each stage by the function that its own verb calls."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from mercato.benchmarks.query import exported, latency
from mercato.config import load_recipe
from mercato.data.checking import check
from mercato.data.market import MARKET, Market
from mercato.data.mining import mine
from mercato.data.simulation import NAME, simulate
from mercato.errors import MercatoError
from mercato.evaluation.run import evaluate_run, summary
from mercato.files import market_lock, refuse_foreign
from mercato.models.export import export
from mercato.models.model import Model
from mercato.models.run import RECIPE, SPEC
from mercato.progress import console, note
from mercato.serving.indexing import index_market
from mercato.serving.server import serve_run
from mercato.training.train import partial_folder, train


def run_demo(folder: Path, size: str, seed: int, port: int | None) -> None:
    """Simulate, check, mine, train, evaluate, export, index; then serve on `port`, or not where it is None.

    A demo that stands in `folder` is replaced, with what its API was told; a folder with anything else is refused.
    """
    market_path, run, index = folder / "market", folder / "run", folder / "index"
    _clear(folder, {market_path: (MARKET,), run: (RECIPE, SPEC), index: ("current",), partial_folder(run): ()})
    metrics: dict[str, Any] = {}

    def checked() -> None:
        problems = [problem for problem in check(market_path) if problem.severity == "error"]
        if problems:
            raise MercatoError("\n".join(map(str, problems)))
        note("  no errors")

    stages: list[tuple[str, Callable[[], Any]]] = [
        ("simulate", lambda: simulate(market_path, size, seed)),
        ("check", checked),
        ("mine", lambda: console.print(mine(Market.open(market_path)))),
        ("train", lambda: train(load_recipe("que2search"), Market.open(market_path), run)),
        ("evaluate", lambda: metrics.update(evaluate_run(run, Market.open(market_path)))),
        ("export", lambda: console.print(exported(export(Model.load(run), run), latency(run)))),
        ("index", lambda: index_market(run, Market.open(market_path), str(index))),
    ]
    begun = time.perf_counter()
    for number, (name, stage) in enumerate(stages, 1):
        start = time.perf_counter()
        console.print(Rule(f"{number}/{len(stages)} {name}", align="left"))
        stage()
        note(f"  [dim]{name}: {time.perf_counter() - start:.0f} s, {time.perf_counter() - begun:.0f} s in all[/]")
    console.print(Rule("what was learned", align="left"))
    Console().print(summary(metrics))  # the result, on stdout
    note(escape(f"report: {run / 'report.html'}"))
    if port is not None:
        serve_run(run, Market.open(market_path), str(index), "127.0.0.1", port)
    else:
        note(escape(f"serve it: mercato serve {run} --market {market_path} --index {index}"))


def _clear(folder: Path, parts: dict[Path, tuple[str, ...]]) -> None:
    """Remove an earlier demo from `folder`; a MercatoError where any of it may not be a demo's (path → its markers)."""
    refuse_foreign(folder, ())
    if folder.is_dir() and set(folder.iterdir()) - set(parts):
        raise MercatoError(f"{folder} holds other things than a demo: name an empty or a new folder")
    for path, markers in parts.items():
        refuse_foreign(path, markers)
    market_path = folder / "market"
    if (market_path / MARKET).is_file():
        if (name := Market.open(market_path).config.name) != NAME:
            raise MercatoError(f"{market_path} is the market {name!r}, not a demo's: name an empty or a new folder")
        with market_lock(market_path):
            note(escape(f"replacing the demo in {folder}"))
            shutil.rmtree(market_path)
    for path in parts:
        shutil.rmtree(path, ignore_errors=True)
