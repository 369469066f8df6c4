"""`mercato restore`: a market, an index and a run of a backup, all of it checked before it is in place."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

from mercato.catalogue.backup import ABOUT, FORMAT, INDEX_PART, MARKET_PART, RUN_PART, About, check_new, new_folder
from mercato.catalogue.ledger import GenerationLedger
from mercato.catalogue.migrations import check_version
from mercato.catalogue.store import Catalogue
from mercato.copying import Piece
from mercato.data.market import CATALOGUE
from mercato.errors import DamagedError, MercatoError
from mercato.files import sync, sync_tree
from mercato.manifest import MANIFEST, damage, listed, one_line
from mercato.progress import bar, note

_MB = 1_000_000
MEND = "restore another backup"


def restore(backup: Path, to: Path) -> dict[str, Any]:
    """Copy a backup's market, index and run into a new folder, whole or not at all.

    Its catalogue is brought up to this Mercato's schema. A server that is started on them is ready once it has brought
    to the index what was written while it was copied.

    Raises:
        MercatoError: the folder is no backup, is damaged (the file is named) or a newer Mercato's, or the target is not
            empty, or its disk has no room.
    """
    names, about = read_backup(backup)
    check_new(to)
    for name, wrong in damage(backup, most=0):  # lengths: what is cut off is told before much is copied
        raise DamagedError(f"{backup / name} {wrong}: {MEND}")
    pieces = [Piece(name, backup / name) for name in names if name != ABOUT]
    taken = sum(piece.on_disk for piece in pieces)
    with new_folder(to, taken) as fresh:
        with bar("backup → market, run, index (MB)", taken / _MB) as advance:
            for piece in (*pieces, Piece(MANIFEST, backup / MANIFEST), Piece(ABOUT, backup / ABOUT)):
                piece.copy(fresh, lambda count: advance(count / _MB))
        note("  what was copied → against the backup's checksums")
        for name, wrong in damage(fresh, most=None):
            raise DamagedError(f"{backup / name} {wrong}: {MEND}")
        for name in (MANIFEST, ABOUT):
            (fresh / name).unlink()
        with closing(Catalogue.open(fresh / MARKET_PART / CATALOGUE)) as catalogue:
            if about.index is not None:
                GenerationLedger(catalogue).note_copied(about.index, *(about.lacks or (None, [])))
        sync_tree(fresh)
    sync(to.parent)
    there = {part: str(to / part) if (to / part).is_dir() else None for part in (MARKET_PART, INDEX_PART, RUN_PART)}
    return {"made_at": about.made_at} | there


def read_backup(backup: Path) -> tuple[list[str], About]:
    """The files of a backup, and what it is of.

    Raises:
        MercatoError: it is none, it is a newer Mercato's, or what says this is damaged.
    """
    if not (backup / ABOUT).is_file() and not (backup / MANIFEST).is_file():
        raise MercatoError(f"{backup} is no backup: it has no {ABOUT} (what `mercato backup` wrote has one)")
    names = [*listed(backup, MEND)]
    with one_line(backup / ABOUT, MEND):
        stored = json.loads((backup / ABOUT).read_bytes())
        newer = stored["format"] > FORMAT
    if newer:
        raise MercatoError(f"{backup} was made by a newer Mercato ({stored['mercato']}): upgrade Mercato")
    with one_line(backup / ABOUT, MEND):
        about = About(**stored)
        schema = int(about.schema)
    try:
        check_version(schema)
    except MercatoError as error:
        raise MercatoError(f"{backup}, its catalogue: {error}") from None
    return names, about
