"""`mercato backup`: a market, its catalogue, the index of what is served and the run that made it, while all goes on.

What a backup holds is of one moment as far as that matters. First it is noted which writes the index may lack; then the
index is held, up to what its log has by then; then, while no row leaves the log of events for a file, the catalogue's
transaction begins and the market's files are listed. So the index is never ahead of its catalogue, and what it lacks
is put in the outbox again where it is restored (`GenerationLedger.note_copied`). All are copied after that, at leisure.

    BACKUP/manifest.json   every file's length and digest, written last
    BACKUP/backup.json     what it is of (`About`)
    BACKUP/market/ index/ run/
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from mercato.catalogue.identity import MARKET, Identity
from mercato.catalogue.ledger import SERVING, check_run, run_setting
from mercato.catalogue.log_mover import moving_lock
from mercato.catalogue.snapshot import Snapshot
from mercato.copying import Piece
from mercato.data.live import rewriting_lock
from mercato.data.market import CATALOGUE, Market
from mercato.data.schema import LOGGED
from mercato.disk import Disk
from mercato.errors import DamagedError, MercatoError
from mercato.files import atomic_directory, sync, sync_tree, write_atomic
from mercato.manifest import MANIFEST, damage, write_manifest
from mercato.progress import bar, note, track
from mercato.retrieval.open import freeze_index
from mercato.version import __version__

ABOUT = "backup.json"
FORMAT = 1
MARKET_PART, INDEX_PART, RUN_PART = "market", "index", "run"
_MB = 1_000_000


@dataclass(frozen=True)
class About:
    """What `backup.json` says."""

    format: int
    mercato: str  # the version that made it
    made_at: str
    schema: int  # the version of its catalogue's
    market: str | None  # ids
    catalogue: str | None
    index: str | None  # the fingerprint of what was served; None: the index was left out
    run: str | None  # the first word of that, or of what was served last; None: nothing was yet, and there is no run
    lacks: tuple[int, list[str]] | None  # what of the index, for `GenerationLedger.note_copied`


def back_up(market: Market, to: Path, url: str | None = None) -> dict[str, Any]:
    """Copy a market and what serves it into a new folder, whole or not at all. A server may run meanwhile.

    With the index at `url` goes its served generation, without a standby, and the run that made it; without one, the
    run that served last. Of the market all files go but hidden ones: caches, locks, the key of one start.

    Raises:
        MercatoError: the market has no catalogue yet, the folder is not empty or lies in what is copied, its disk has
            no room, a run is not where it was, or what was to be copied is damaged.
    """
    file = market.path / CATALOGUE
    if not file.is_file():
        raise MercatoError(f"{market.path} has no catalogue, as it was never served: a copy of its tables is a backup")
    check_new(to)
    apart = [Path(unquote(urlsplit(url).path) if "://" in url else url)] if url else []
    if any(to.resolve().is_relative_to(each.resolve()) for each in (market.path, *apart)):
        raise MercatoError(f"--to {to}: lies in what is to be copied; give a folder elsewhere")
    with ExitStack() as held:
        log_held = held.enter_context(ExitStack())
        log_held.enter_context(rewriting_lock(market.path))  # nobody merges or removes files of the log
        fingerprint, lacks, index = None, None, list[Piece]()
        if url:
            with Snapshot.of(file) as before:
                lacking = (before.last_number, before.waiting())
                frozen = held.enter_context(freeze_index(url))
                fingerprint, index = frozen.fingerprint, [*frozen.files]
                lacks = lacking if before.follows(fingerprint) else None
        with ExitStack() as still:
            for table in LOGGED:
                still.enter_context(moving_lock(market.path / table))
            catalogue = held.enter_context(Snapshot.of(file))
            files = [*_files(market.path, apart)]
        serving = fingerprint or catalogue.setting(SERVING)
        made_by = serving.split(" ")[0] if serving else None
        run = check_run(made_by, catalogue.setting(run_setting(made_by))) if made_by else None
        files = [piece for piece in files if not (run and _within(piece, run))]
        own = Identity.of(market.path) or Identity(catalogue.setting(MARKET) or "")
        about = About(
            format=FORMAT,
            mercato=__version__,
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            schema=catalogue.schema,
            market=own.market or None,
            catalogue=own.catalogue,
            index=fingerprint,
            run=made_by,
            lacks=lacks,
        )
        run_files = [*_files(run, [])] if run else []
        parts = ((MARKET_PART, files), (RUN_PART, run_files), (INDEX_PART, index))
        size = file.stat().st_size
        taken = size + sum(piece.on_disk for _, pieces in parts for piece in pieces)
        with new_folder(to, taken) as fresh:
            with bar("catalogue, market, run, index → backup (MB)", taken / _MB) as advance:
                _copy_catalogue(catalogue, fresh / MARKET_PART, lambda share: advance(share * size / _MB))
                for part, pieces in parts:
                    for piece in pieces:
                        piece.copy(fresh / part, lambda count: advance(count / _MB))
                    log_held.close()  # the market's come first
            _check_copies(fresh, market.path)
            write_atomic(fresh / ABOUT, json.dumps(asdict(about)) + "\n")
            (fresh / ABOUT).chmod(0o600)
            names = [path.relative_to(fresh).as_posix() for path in fresh.rglob("*") if path.is_file()]
            write_manifest(fresh, track(names, "files → checksums"), sparse=True)
            sync_tree(fresh)
        sync(to.parent)
    told = {name: value for name, value in asdict(about).items() if name != "lacks"}
    return {"backup": str(to), "files": len(names), "bytes": taken} | told


@contextmanager
def new_folder(to: Path, size: int) -> Iterator[Path]:
    """A folder for its owner alone that appears whole or not at all.

    Raises:
        MercatoError: its disk has no room for so many bytes.
    """
    to.parent.mkdir(parents=True, exist_ok=True)
    if not Disk(to.parent).has_room(size):
        raise MercatoError(f"--to {to}: its disk has no room for {size / _MB:,.0f} MB beside the 1 GiB kept free")
    with atomic_directory(to) as fresh:
        fresh.chmod(0o700)
        yield fresh


def check_new(folder: Path) -> None:
    """Refuse all but a folder that is new or empty.

    Raises:
        MercatoError: it is another.
    """
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise MercatoError(f"--to {folder}: is there already and is not an empty folder; give a new one")


def _files(folder: Path, apart: list[Path]) -> Iterator[Piece]:
    """What is copied of a folder as it lies there: hidden files, the catalogue's, indexes and `apart` are not."""
    left_out = {each.resolve() for each in apart}
    for inner, folders, names in os.walk(folder, followlinks=True):
        here = Path(inner)
        if any(name.startswith("generation-") for name in folders):
            folders.clear()
            continue
        folders[:] = [name for name in folders if name[0] != "." and (here / name).resolve() not in left_out]
        for name in sorted(names):
            if name[0] != "." and not (here == folder and name.startswith(CATALOGUE)):
                yield Piece((here / name).relative_to(folder).as_posix(), here / name)


def _within(piece: Piece, folder: Path) -> bool:
    return isinstance(piece.source, Path) and piece.source.resolve().is_relative_to(folder.resolve())


def _copy_catalogue(catalogue: Snapshot, folder: Path, done: Any) -> None:
    folder.mkdir()
    os.close(os.open(folder / CATALOGUE, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    try:
        catalogue.copy(folder / CATALOGUE, done)
    except sqlite3.OperationalError as error:
        raise MercatoError(f"the catalogue could not be copied: {error}") from None


def _check_copies(fresh: Path, market: Path) -> None:
    """Refuse what was damaged before it was copied, or changed meanwhile, where it has a manifest of its own."""
    note("  what was copied → against its own checksums")
    for manifest in fresh.rglob(MANIFEST):
        for name, wrong in damage(manifest.parent, most=None):
            where = (manifest.parent / name).relative_to(fresh)
            raise DamagedError(
                f"{where} of the copy {wrong}: was it being made anew meanwhile? Then back up again; else see"
                f" `mercato doctor` of the {where.parts[0]} ({market})"
            )
