"""The command line, `mercato VERB`: one verb a stage, no logic of its own."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.markup import escape

from mercato import progress
from mercato.benchmarks.verbs import bench
from mercato.catalogue.verbs import backfill, backup, drop_standby, erase, restore, swap
from mercato.errors import MercatoError
from mercato.extras import train_extra
from mercato.parameters import Json, MarketDir, print_result
from mercato.serving.verbs import keys
from mercato.version import __version__

app = typer.Typer(
    name="mercato",
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Marketplace search that you own: from a catalogue and a log to a search page, measured at every step.",
)
app.add_typer(bench, name="bench")
app.add_typer(keys, name="keys")


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _main(
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="No progress on stderr.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and stop.")
    ] = False,
) -> None:
    progress.quiet(quiet)


@app.command()
def demo(
    folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where market, runs and index are written.")] = Path(
        "demo"
    ),
    size: Annotated[Literal["tiny", "demo", "study"], typer.Option(help="Of the simulated market.")] = "demo",
    serve: Annotated[bool, typer.Option("--serve/--no-serve", help="End by serving the page.")] = True,
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Preferred; the next free one is taken.")] = 8000,
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same market.")] = 0,
) -> None:
    """Run the whole path on a simulated market: simulate, check, mine, train, evaluate, export, index, serve."""
    from mercato.demo import run_demo

    run_demo(folder, size, seed, port if serve else None)


@app.command()
def simulate(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    size: Annotated[
        Literal["tiny", "demo", "study"], typer.Option(help="About 300, 6,000 or 50,000 products.")
    ] = "demo",
    seed: Annotated[int, typer.Option(min=0, help="The same seed gives the same market.")] = 0,
) -> None:
    """Write a simulated market: catalogue with images, event log, judgments (docs/simulation.md)."""
    from mercato.simulation.simulate import simulate

    simulate(folder, size, seed)


@app.command("import")
def import_(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The market to write.")],
    products: Annotated[list[Path], typer.Option(help="CSV, JSONL or Parquet; may be given again.")],
    events: Annotated[list[Path] | None, typer.Option(help="The same, or UBI JSON.")] = None,
    judgments: Annotated[list[Path] | None, typer.Option(help="Graded query–product pairs.")] = None,
    pairs: Annotated[list[Path] | None, typer.Option(help="Ready-made training pairs, instead of a log.")] = None,
    mapping: Annotated[
        Path | None,
        typer.Option("--map", help="An import map: which of their columns is which of ours (docs/data.md)."),
    ] = None,
    name: Annotated[str | None, typer.Option(help="What to call the market.")] = None,
    as_json: Json = False,
) -> None:
    """Import your own tables into a market; rows and values that cannot be read are left out and reported."""
    from mercato.data.importing import import_market

    report = import_market(folder, products, events, judgments, pairs, mapping, name)
    print_result(report, report.as_dict(), as_json)


@app.command()
def check(folder: Annotated[Path, typer.Argument(metavar="DIR")], as_json: Json = False) -> None:
    """List every problem of a market: table, row, column, why. Exits with 1 if any is an error."""
    from dataclasses import asdict

    from mercato.data.checking import check

    problems = check(folder)
    errors = sum(problem.severity == "error" for problem in problems)
    lines = [f"[{'red' if p.severity == 'error' else 'yellow'}]{escape(str(p))}[/]" for p in problems]
    summary = f"{errors} errors, {len(problems) - errors} warnings" if problems else "[green]no problems[/]"
    print_result("\n".join([*lines, summary]), {"errors": errors, "problems": [asdict(p) for p in problems]}, as_json)
    if errors:
        raise typer.Exit(1)


@app.command()
def mine(folder: Annotated[Path, typer.Argument(metavar="DIR")], as_json: Json = False) -> None:
    """Mine the event log into pairs (engaged, shown, left) and displayed lists, of all products that there are now."""
    from mercato.catalogue.written import take_written
    from mercato.data.market import Market
    from mercato.data.mining import mine

    take_written(folder)
    report = mine(Market.open(folder))
    print_result(report, report.as_dict(), as_json)


app.command()(erase)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or the name of one that ships (que2search).")],
    market: MarketDir,
    run: Annotated[Path, typer.Option("--out", help="The run to write.")],
    changes: Annotated[list[str] | None, typer.Option("--set", help="Change a field: stages.0.epochs=3.")] = None,
) -> None:
    """Train all stages of a recipe; interrupted, the same command resumes."""
    from mercato.catalogue.written import take_written
    from mercato.config import load_recipe
    from mercato.data.market import Market
    from mercato.training.train import partial_folder, train

    chosen = load_recipe(recipe, changes or ())
    if not Market.open(market).has("events") and not partial_folder(run).exists():
        take_written(market)  # else mining does
    train(chosen, Market.open(market), run)


@app.command()
def evaluate(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    market: MarketDir,
    compare: Annotated[
        list[str] | None, typer.Option(help="Also measure this pretrained text encoder as it is (name or folder).")
    ] = None,
    as_json: Json = False,
) -> None:
    """Every metric that the market's tables allow, beside BM25 and random; writes metrics.json and report.html."""
    from mercato.data.market import Market
    from mercato.evaluation.baselines.zero_shot import ZeroShot
    from mercato.reports.evaluate import evaluate_run, summary

    metrics = evaluate_run(run, Market.open(market), {Path(name).name: ZeroShot(name) for name in compare or ()})
    print_result(summary(metrics), metrics.as_dict(), as_json)
    progress.note(f"report: {run / 'report.html'}")


@app.command()
def ablate(
    study: Annotated[str, typer.Argument(help="A study file, or the name of one that ships (que2search-table4).")],
    market: MarketDir,
    to: Annotated[Path, typer.Option("--out", help="The folder of the tables and of the runs that studies share.")],
    jobs: Annotated[int | None, typer.Option(min=1, help="Runs at once; else one a core, or one on a GPU.")] = None,
    keep_runs: Annotated[bool, typer.Option("--keep-runs", help="Keep weights and ONNX towers of every run.")] = False,
    as_json: Json = False,
) -> None:
    """Measure a paper's table again, row by row: train what is missing, write the table as JSON, Markdown and HTML."""
    from mercato.data.market import Market
    from mercato.experiments.ablation.study import load_study
    from mercato.reports.study import ablate
    from mercato.reports.study_text import terminal

    read, folder = load_study(study)
    table = ablate(read, folder, Market.open(market), to, jobs=jobs, keep=keep_runs)
    print_result(terminal(table), table.as_dict(), as_json)
    progress.note(f"tables: {to / read.name}.html, .md, .json")


@app.command()
def explain(run: Annotated[Path, typer.Argument(metavar="RUN")], market: MarketDir, as_json: Json = False) -> None:
    """Interpret a run: attention, importance of channels, what queries see in photos; writes explain.html and .json."""
    from mercato.data.market import Market
    from mercato.reports.explanation import explain, summary

    explanation = explain(run, Market.open(market))
    print_result(summary(explanation), explanation.as_dict(), as_json)
    progress.note(f"report: {run / 'explain.html'}")


@app.command()
def robustness(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN…", help="One run, or several side by side.")],
    market: MarketDir,
    to: Annotated[
        Path | None, typer.Option("--out", help="The page to write (.html); else robustness.html in the one run.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Robustness to missing fields: every metric with each field dropped from all products, as a page and as JSON."""
    from mercato.data.market import Market
    from mercato.reports.robustness import page_of, robustness, summary

    page = page_of(runs, to)
    result = robustness(runs, Market.open(market), page)
    print_result(summary(result), result.as_dict(), as_json)
    progress.note(f"report: {page}")


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    int8_products: Annotated[
        bool,
        typer.Option(
            "--int8-products", help="The product tower in int8; `bench product --market` tells what it costs."
        ),
    ] = False,
    as_json: Json = False,
) -> None:
    """Export both towers to ONNX, compare their vectors with torch's, and time the query path."""
    from mercato.runs.export import export
    from mercato.runs.latency import exported, latency
    from mercato.runs.torch_encoder import TorchEncoder

    differences = export(TorchEncoder.load(run), run, int8_products)
    times = latency(run)
    print_result(exported(differences, times), {"differences": differences, "query_latency": times}, as_json)


@app.command()
def index(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    market: MarketDir,
    to: Annotated[str, typer.Option("--to", help="The index to build: a folder.")],
    as_of: Annotated[datetime | None, typer.Option(help="When listings have their age, in UTC; else now.")] = None,
    as_json: Json = False,
) -> None:
    """Embed the market's products and build the index; an existing one is replaced only once it is complete."""
    from mercato.catalogue.indexing import index_market
    from mercato.data.market import Market

    meta = index_market(run, Market.open(market), to, as_of and as_of.replace(tzinfo=UTC))
    print_result(f"{meta['count']:,} products indexed at {to}", meta, as_json)


@app.command()
def rank(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    market: MarketDir,
    index: Annotated[str, typer.Option("--index", help="What `mercato index` built with this run.")],
    as_json: Json = False,
) -> None:
    """Train the ranker of a run on the log, and measure its order against the cosine's; `serve` takes it from there."""
    from mercato.data.market import Market
    from mercato.reports.ranking import rank_run, summary

    ranked = rank_run(run, Market.open(market), index)
    print_result(summary(ranked), ranked.as_dict(), as_json)


@app.command()
def tune(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    market: MarketDir,
    index: Annotated[str, typer.Option("--index", help="What `mercato index` built with this run.")],
    p99_ms: Annotated[
        float | None, typer.Option("--p99-ms", min=0.1, help="At most, of a first page, in process on this machine.")
    ] = None,
    precision: Annotated[
        float | None, typer.Option(min=0, max=1, help="At least: relevant among the judged products retrieved.")
    ] = None,
    to: Annotated[Path | None, typer.Option("--out", help="The report to write; else tuning.html in the run.")] = None,
    as_json: Json = False,
) -> None:
    """Choose how hard to search for each page, on golden queries and under constraints; `serve` takes it from there."""
    from mercato.data.market import Market
    from mercato.experiments.tuning.choosing import Constraints
    from mercato.reports.tuning import summary, tune_run

    page = to or run / "tuning.html"
    if page.is_dir() or not page.parent.is_dir():
        raise MercatoError(f"--out {page}: not a file in a folder that exists")
    tuned = tune_run(run, Market.open(market), index, Constraints(p99_ms, precision), page)
    print_result(summary(tuned), tuned.as_dict(), as_json)
    progress.note(f"report: {page}")
    if tuned.refused:
        raise typer.Exit(1)


app.command()(backfill)
app.command()(swap)
app.command("drop-standby")(drop_standby)
app.command()(backup)
app.command()(restore)


@app.command()
def doctor(
    folders: Annotated[list[Path], typer.Argument(metavar="DIR…", help="Markets, runs, indexes, or folders of them.")],
    as_json: Json = False,
) -> None:
    """Look for damage in markets, catalogues, runs and indexes, and for strangers among them. Exits with 1 if any."""
    from dataclasses import asdict

    from mercato.doctor import examine

    findings = [*examine(folders)]
    ok = all(finding.ok for finding in findings)
    if as_json:
        print_result(None, {"ok": ok, "findings": [asdict(finding) for finding in findings]}, as_json)
    for finding in findings if not as_json else ():
        typer.secho(str(finding), fg="green" if finding.ok else "red")  # a line each, however long
    raise typer.Exit(0 if ok else 1)


@app.command()
def serve(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    market: MarketDir,
    index: Annotated[str, typer.Option("--index", help="What `mercato index` built.")],
    port: Annotated[int, typer.Option(min=1, max=65_535, help="Preferred; the next free one is taken.")] = 8000,
    host: Annotated[str, typer.Option(help="The address to listen on.")] = "127.0.0.1",
    workers: Annotated[
        int, typer.Option(min=0, help="Processes that answer, beside the one that writes; 0: one does both.")
    ] = 0,
    log_features: Annotated[
        float, typer.Option(min=0, max=1, help="Share of the searches whose hits' features are kept to learn from.")
    ] = 0.1,
    opened: Annotated[
        str, typer.Option("--open", metavar="AREAS", help="What needs no key; all else does, writes always.")
    ] = "search,embed,events,metrics,docs",
    open_rate: Annotated[
        float, typer.Option(min=0.01, help="Searches and products a second, of an address without a key.")
    ] = 100.0,
    open_depth: Annotated[int, typer.Option(min=1, help="Products that a search without a key shows.")] = 240,
    connections: Annotated[int, typer.Option(min=1, help="At once, of a process.")] = 512,
    per_address: Annotated[int, typer.Option(min=1, help="Of one address; its requests, through a proxy.")] = 64,
    request_seconds: Annotated[float, typer.Option(min=0.1, help="For a head to come, and again for a body.")] = 10.0,
    idle_seconds: Annotated[float, typer.Option(min=0.1, help="Between requests of a connection.")] = 30.0,
    proxy: Annotated[str, typer.Option(help="Trusted proxies, by commas: their X-Forwarded-For counts.")] = "",
) -> None:
    """Serve the API (OpenAPI at /docs) and the page, with the keys of `mercato keys` or the one in MERCATO_API_KEY."""
    from mercato.data.market import Market
    from mercato.serving.connections import Limits
    from mercato.serving.proxies import Proxies
    from mercato.serving.server import serve_run

    areas = [area.strip() for area in opened.split(",") if area.strip()]
    limits = Limits(
        connections=connections,
        per_address=per_address,
        request_seconds=request_seconds,
        idle_seconds=idle_seconds,
        proxies=Proxies.parse(proxy),
    )
    given = (host, port, workers, log_features, areas, limits, open_rate, open_depth)
    serve_run(run, Market.open(market), index, *given)


def main() -> None:
    """The entry point: an error the user can fix is one message and exit code 1, not a traceback."""
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    for flag in {"--quiet", "-q"} & set(sys.argv[2:]):  # wanted after the verb too
        sys.argv.remove(flag)
        sys.argv.insert(1, flag)
    try:
        with train_extra():
            app()
    except (MercatoError, OSError) as error:
        Console(stderr=True, highlight=False).print(f"[bold red]error:[/] {escape(str(error))}", soft_wrap=True)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
