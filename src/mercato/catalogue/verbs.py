"""`mercato erase`, `backfill`, `swap` and `drop-standby`: a client's events, and the generations of an index."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mercato.parameters import Json, MarketDir, print_result


def backfill(
    run: Annotated[Path, typer.Argument(metavar="RUN")],
    market: MarketDir,
    index: Annotated[str, typer.Option("--index", help="What `mercato index` built.")],
    as_json: Json = False,
) -> None:
    """Embed the catalogue with a run beside what is served, then swap them; interrupted, the same command resumes."""
    from mercato.catalogue.backfill import backfill
    from mercato.data.market import Market

    meta = backfill(run, Market.open(market), index)
    print_result(f"{meta['count']:,} products of {run} are served at {index}; `mercato swap` swaps back", meta, as_json)


def swap(
    index: Annotated[str, typer.Option("--index", help="What `mercato backfill` swapped.")],
    as_json: Json = False,
) -> None:
    """Swap what is served with the standby, which a running server follows; once more, and it is as before."""
    from mercato.retrieval.open import swap_index

    swap_index(index)
    _print_generations(index, as_json)


def drop_standby(
    index: Annotated[str, typer.Option("--index", help="What `mercato backfill` swapped.")],
    as_json: Json = False,
) -> None:
    """Let the standby go: its files, and what a running server spends on it."""
    from mercato.retrieval.open import drop_standby

    drop_standby(index)
    _print_generations(index, as_json)


def _print_generations(index: str, as_json: bool) -> None:
    from dataclasses import asdict

    from mercato.retrieval.open import generations

    named = generations(index)
    print_result(f"served: {named.served}\nstandby: {named.standby or 'none'}", asdict(named), as_json)


def erase(
    folder: Annotated[Path, typer.Argument(metavar="DIR")],
    client: Annotated[str, typer.Option(help="The client_id of the events to remove.")],
    as_json: Json = False,
) -> None:
    """Remove all events of one client from the log, wherever they lie; says how many, and what to make anew."""
    from mercato.catalogue.erasure import erase
    from mercato.data.market import Market

    erased = erase(Market.open(folder), client)
    print_result(escape(str(erased)), erased.as_dict(), as_json)
