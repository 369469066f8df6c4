"""`mercato keys`: the API keys of a market's server."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from mercato.parameters import Json, print_result
from mercato.progress import note

if TYPE_CHECKING:
    from mercato.catalogue.keys import ApiKey, KeyStore, Scope

keys = typer.Typer(no_args_is_help=True, help="API keys: made, listed and revoked while the server runs.")

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The market's folder.")]


@keys.command("add")
def add_key(
    folder: Folder,
    name: Annotated[str, typer.Option(help="What it is for, such as shop-backend.")],
    scope: Annotated[
        list[str],
        typer.Option(help="May be given twice. write: products and events; read: search, embed, docs; admin: metrics."),
    ],
    rate: Annotated[float | None, typer.Option(help="Requests a second, by each process that answers.")] = None,
    as_json: Json = False,
) -> None:
    """Make a key and print it: only its digest is kept, and nobody can print it again."""
    with _store(folder) as store:
        made, secret = store.add(name, cast("list[Scope]", scope), rate)
    if not as_json:
        note(f"key {made.key_id} may {', '.join(sorted(made.scopes))}; send it as X-API-Key. It is shown this once:")
        print(secret)
        return
    print_result(None, {"key": secret, **_told(made)}, as_json)


@keys.command("list")
def list_keys(folder: Folder, as_json: Json = False) -> None:
    """Every key, the revoked ones too, without their secrets."""
    with _store(folder) as store:
        found = [_told(key) for key in store.all()]
    table = Table("id", "name", "scopes", "requests a second", "made", "revoked")
    for row in found:
        cells = (row["name"], ", ".join(row["scopes"]), row["rate"] or "any", row["made_at"], row["revoked_at"] or "")
        table.add_row(row["key_id"], *map(str, cells))
    print_result(table if found else "no keys; `mercato keys add` makes one", {"keys": found}, as_json)


@keys.command("revoke")
def revoke_key(folder: Folder, key_id: Annotated[str, typer.Argument(metavar="ID")], as_json: Json = False) -> None:
    """Revoke a key: a running server refuses it a second later."""
    with _store(folder) as store:
        store.revoke(key_id)
    print_result(f"key {key_id} is revoked", {"revoked": key_id}, as_json)


@contextmanager
def _store(folder: Path) -> Iterator[KeyStore]:
    from mercato.catalogue.store import Catalogue
    from mercato.data.market import CATALOGUE, Market

    with closing(Catalogue.open(Market.open(folder).path / CATALOGUE)) as catalogue:
        yield catalogue.keys


def _told(key: ApiKey) -> dict[str, Any]:
    def day(at: float | None) -> str | None:
        return None if at is None else datetime.fromtimestamp(at, UTC).isoformat(timespec="seconds")

    told = {"key_id": key.key_id, "name": key.name, "scopes": sorted(key.scopes), "rate": key.rate}
    return told | {"made_at": day(key.made_at), "revoked_at": day(key.revoked_at)}
