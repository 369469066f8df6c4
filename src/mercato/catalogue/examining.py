"""A catalogue looked through for damage, and nothing written: for `mercato doctor`."""

from __future__ import annotations

from pathlib import Path

from mercato.catalogue.database import check_file, damaged, reading_only
from mercato.catalogue.identity import IDENTITY, MARKET, Identity
from mercato.errors import MercatoError


def examine_catalogue(file: Path) -> str:
    """Let SQLite check every page and every index of a catalogue, and say what it holds.

    Raises:
        MercatoError: it is broken, no catalogue, or that of another market than the one that it lies in.
    """
    check_file(file)
    with reading_only(file) as connection:
        (found,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
        if found != "ok":
            raise damaged(file, found)
        products, waiting = (
            connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            for table in ("products WHERE NOT deleted", "outbox")
        )
        told = dict(connection.execute("SELECT name, value FROM settings WHERE name IN ('name', ?)", (MARKET,)))
    own = Identity.of(file.parent)
    if own and (told.get(MARKET, own.market) != own.market or own.catalogue not in (None, told.get("name", "")[:8])):
        raise MercatoError(f"{file} is not the catalogue that {file.parent / IDENTITY} names: put that one back")
    return f"{products:,} products, {waiting:,} of them to be indexed yet"
