"""Live files: `TABLE/live-….parquet`, which a server writes into a market's tables while it serves.

`live-CATALOGUE-FIRST-LAST.parquet` holds the rows FIRST … LAST that a catalogue has logged. Files are merged into one
over all their rows, which stands beside them until they are removed: a file whose rows another one holds is not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Self

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import FileLock

_NAME = re.compile(r"live-([0-9a-f]+)-(\d+)-(\d+)\.parquet")
_MOVED = b"moved"
_PRODUCTS = re.compile(r"live-api-\d+\.parquet")


@dataclass(frozen=True)
class LiveFile:
    """A file of logged rows: those numbered `first` … `last` of a catalogue's log."""

    path: Path
    catalogue: str
    first: int
    last: int

    @classmethod
    def of(cls, path: Path) -> Self | None:
        """As its name says; None: it is none."""
        named = _NAME.fullmatch(path.name)
        return cls(path, named[1], int(named[2]), int(named[3])) if named else None


def live_file_name(catalogue: str, first: int, last: int) -> str:
    """The name of a file of these rows."""
    return f"live-{catalogue}-{first:012}-{last:012}.parquet"


def moved_at(moment: datetime) -> dict[bytes, bytes]:
    """A file's metadata: when the last of its rows left the log."""
    return {_MOVED: moment.isoformat().encode()}


def when_moved(file: Path) -> datetime:
    """What `moved_at` says in a live file; of one that does not say, when it was written."""
    try:
        moved = (pq.read_schema(file).metadata or {}).get(_MOVED)
    except (pa.ArrowException, OSError, ValueError):  # whoever reads its rows says so
        moved = None
    return datetime.fromisoformat(moved.decode()) if moved else datetime.fromtimestamp(file.stat().st_mtime, UTC)


def split_merged(files: Iterable[Path]) -> tuple[list[LiveFile], list[Path]]:
    """The live files among these, by catalogue and row, and those whose rows another of them holds."""
    every = [live for file in files if (live := LiveFile.of(file))]
    kept: list[LiveFile] = []
    merged: list[Path] = []
    for live in sorted(every, key=lambda live: (live.catalogue, live.first, -live.last)):
        if kept and kept[-1].catalogue == live.catalogue and live.last <= kept[-1].last:
            merged.append(live.path)
        else:
            kept.append(live)
    return kept, merged


def is_live(file: Path) -> bool:
    """Whether a server, or what reads its catalogue, wrote this file of a table."""
    return bool(_NAME.fullmatch(file.name) or _PRODUCTS.fullmatch(file.name))


def product_snapshots(folder: Path) -> list[Path]:
    """`products/live-api-N.parquet`: what the API wrote, each as it was read from the catalogue; the newest last."""
    return sorted(file for file in folder.glob("live-api-*.parquet") if _PRODUCTS.fullmatch(file.name))


def rewriting_lock(market: Path, timeout: float = -1) -> FileLock:
    """Held by who replaces or removes files of a market's log, and by who must not have that happen under it."""
    return FileLock(market / ".rewriting.lock", timeout=timeout)
