"""`mercato bench`: one verb a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mercato import progress
from mercato.errors import MercatoError
from mercato.parameters import Json, MarketDir, print_result

bench = typer.Typer(no_args_is_help=True, help="Benchmarks: each against a reference timed in the same run.")


@bench.command("query")
def bench_query(
    run: Annotated[Path | None, typer.Option(help="A run; else an untrained Que2Search query tower is timed.")] = None,
    as_json: Json = False,
) -> None:
    """String → query vector, the whole path, one thread, against the same tower in eager torch."""
    from mercato.benchmarks.query import run as measure
    from mercato.benchmarks.query import table

    figures = measure(run)
    print_result(table(figures), figures, as_json)


@bench.command("product")
def bench_product(
    run: Annotated[
        Path | None, typer.Option(help="A run; else an untrained tower of 6 layers, 384-d, 64 tokens is timed.")
    ] = None,
    market: Annotated[
        Path | None, typer.Option(help="Its market: what int8 does to the metrics of search is told as well.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Product → vector, one by one, one thread, in float32 and int8, against the same tower in eager torch."""
    from mercato.benchmarks.product import run as measure
    from mercato.benchmarks.product import table
    from mercato.data.market import Market

    if market and not run:
        raise MercatoError("--market: give the --run that was trained on it")
    figures = measure(run, Market.open(market) if market else None)
    print_result(table(figures), figures, as_json)


@bench.command("search")
def bench_search(
    products: Annotated[int, typer.Option(min=1_000, help="How many.")] = 200_000, as_json: Json = False
) -> None:
    """Hybrid search with both scores on synthetic products, filters 100 % to .1 %, against an exact scan."""
    from mercato.benchmarks.search import run as measure
    from mercato.benchmarks.search import table

    figures = measure(products)
    print_result(table(figures), figures, as_json)


@bench.command("serve")
def bench_serve(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="One with exported towers.")],
    market: MarketDir,
    to: Annotated[Path, typer.Option("--out", help="Where the larger market, its index and the report are kept.")],
    products: Annotated[int, typer.Option(min=100, help="How many, made from the market's.")] = 100_000,
    workers: Annotated[int, typer.Option(min=0, help="Of the server.")] = 0,
    as_json: Json = False,
) -> None:
    """The whole request over HTTP, under load, at the size of a real shop; writes bench-serve.json and .html."""
    from mercato.benchmarks.serve.benchmark import PAGE, table
    from mercato.benchmarks.serve.benchmark import run as measure
    from mercato.data.market import Market

    figures = measure(run, Market.open(market), to, products, workers)
    print_result(table(figures), figures, as_json)
    progress.note(f"report: {to / PAGE}")


@bench.command("soak")
def bench_soak(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="One with exported towers.")],
    market: MarketDir,
    to: Annotated[Path, typer.Option("--out", help="As of `bench serve`: the larger market and the report.")],
    minutes: Annotated[float, typer.Option(min=0.1, help="How long.")] = 10.0,
    rate: Annotated[
        float | None, typer.Option(min=0.1, help="Searches a second; else 80 % of what the server can do.")
    ] = None,
    products: Annotated[int, typer.Option(min=100, help="How many, made from the market's.")] = 10_000,
    workers: Annotated[int, typer.Option(min=0, help="Of the server.")] = 0,
    as_json: Json = False,
) -> None:
    """A server under load for minutes, with products written and deleted: errors, latency, memory that grows."""
    from mercato.benchmarks.serve.soak import run as measure
    from mercato.benchmarks.serve.soak import table
    from mercato.data.market import Market

    figures = measure(run, Market.open(market), to, products, workers, minutes, rate)
    print_result(table(figures), figures, as_json)


@bench.command("train")
def bench_train(
    encoder: Annotated[
        str | None, typer.Option(help="A transformers text encoder (name or folder); else one from scratch.")
    ] = None,
    pairs: Annotated[int, typer.Option(min=2, help="An epoch's.")] = 2_048,
    batch_size: Annotated[int, typer.Option(min=2, help="Of both.")] = 64,
    as_json: Json = False,
) -> None:
    """Pairs a second of training, against sentence-transformers on the same encoder and pairs."""
    from mercato.benchmarks.train import run as measure
    from mercato.benchmarks.train import table

    figures = measure(encoder, pairs, batch_size)
    print_result(table(figures), figures, as_json)
