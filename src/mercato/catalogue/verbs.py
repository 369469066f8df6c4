"""The verbs of who keeps a market's data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from mercato.parameters import Json, print_result


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
