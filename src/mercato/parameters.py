"""What the verbs of the command line share: parameters, and how a result is printed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

MarketDir = Annotated[Path, typer.Option("--market", help="The market's folder.")]
Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON object on stdout.")]

_OUT = Console()


def print_result(rich: Any, machine: Any, as_json: bool) -> None:
    """Print a result for people, or as one JSON object for machines."""
    if as_json:
        print(json.dumps(machine, default=str))
    else:
        _OUT.print(rich)
