"""`mercato backfill`, `swap`, `drop-standby`, `erase`, `backup` and `restore`: generations, what is kept."""

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


def backup(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The market's folder; it may be served meanwhile.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to write, new or empty.")],
    index: Annotated[
        str | None, typer.Option("--index", help="What serves it; else the index is left out, and built anew later.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Back up a market with its catalogue and log, the index that serves it and that one's run, while they are used."""
    from mercato.catalogue.backup import back_up
    from mercato.data.market import Market

    made = back_up(Market.open(folder), to, index)
    told = [f"{made['files']:,} files, {made['bytes'] / 1e6:,.0f} MB: the market of {made['made_at']}"]
    told += ["without the index"] if made["index"] is None else []
    told += [] if made["run"] else ["without a run, as none has served"]
    told += [f"`mercato restore {to} --to NEW` brings it back"]
    print_result(escape("; ".join(told)), made, as_json)


def restore(
    backup: Annotated[Path, typer.Argument(metavar="BACKUP", help="What `mercato backup` wrote.")],
    to: Annotated[Path, typer.Option("--to", help="The folder to write, new or empty: market, index and run in it.")],
    as_json: Json = False,
) -> None:
    """Restore a backup into a new folder, once every file of it is found to be as it was written."""
    from mercato.catalogue.restore import restore

    made = restore(backup, to)
    run, index = made["run"] or "RUN", made["index"] or to / "index"
    told = [f"the market of {made['made_at']}: what was erased, or which keys were revoked, since then is back"]
    if not made["index"]:
        told.append(f"mercato index {run} --market {made['market']} --to {index}")
    told.append(f"mercato serve {run} --market {made['market']} --index {index}")
    print_result(escape("\n".join(told)), made, as_json)
