"""`mercato erase`: what one client did leaves the log: imported tables, live files, and rows that wait to be moved."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mercato.catalogue.log_mover import LogMover
from mercato.catalogue.store import Catalogue
from mercato.data.live import rewriting_lock, split_merged
from mercato.data.market import CATALOGUE, Market, read_file
from mercato.data.schema import LOGGED, TABLES
from mercato.errors import MercatoError
from mercato.files import atomic_files, sweep

MINED = ("pairs", "lists")
_ROWS = 50_000  # of a file, at a time
Found = dict[Path, pa.ChunkedArray]  # file → whether each of its rows is to go; of files with such rows


@dataclass(frozen=True)
class Erasure:
    """What `erase` removed: rows of two tables; and which tables were mined from them before and tell of them still."""

    client: str
    events: int
    features: int
    made_before: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """For `--json`."""
        return asdict(self)

    def __str__(self) -> str:
        told = (
            f"{self.events:,} events of client {self.client} erased, and {self.features:,} rows of features with them"
        )
        if self.events and self.made_before:
            told += (
                f"\nmade of the log as it was: {', '.join(self.made_before)} (`mercato mine` makes them anew), and the"
                " runs and rankers that learned from these (train and rank anew)"
            )
        return told


def erase(market: Market, client: str) -> Erasure:
    """Remove the events of a client, and the features that were logged of its searches. A server may run meanwhile.

    A client's events are those that name it, and those that name no client, of the sessions in which it is named. All
    files are written before the first is replaced; where a process is killed while they are, the same call goes on.

    Raises:
        MercatoError: the name is empty, or a table cannot be read.
    """
    if not client:
        raise MercatoError("--client: is empty; give the client_id of the events")
    if (market.path / CATALOGUE).is_file():
        with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
            for mover in (LogMover(catalogue, market.path, table) for table in LOGGED):
                while mover.move():
                    pass
    with rewriting_lock(market.path):  # whoever mines is waited for
        for table in LOGGED:
            sweep(market.path, f"{table}.parquet")
            for file in split_merged((market.path / table).glob("live-*.parquet"))[1]:
                file.unlink()  # no longer read, and full of what is to go
        events, searches = _events(market, client)
        features, _ = _find(market, "features", ["query_id"], lambda rows: pc.is_in(rows["query_id"], searches))
        _take_out(events | features)
    made = tuple(table for table in MINED if market.has(table))
    return Erasure(client, _count(events), _count(features), made)


def _events(market: Market, client: str) -> tuple[Found, pa.ChunkedArray]:
    """The client's events, and the ids of its searches."""
    columns = ["client_id", "session_id", "query_id"]
    _, named = _find(market, "events", columns, lambda rows: pc.equal(rows["client_id"], client))
    sessions = named["session_id"]

    def theirs(rows: pa.Table) -> pa.ChunkedArray:
        clients = pc.fill_null(rows["client_id"], "")
        unnamed = pc.and_(pc.equal(clients, ""), pc.is_in(rows["session_id"], sessions))
        return pc.or_(pc.equal(clients, client), unnamed)

    found, rows = _find(market, "events", columns, theirs)
    return found, rows["query_id"]


def _find(
    market: Market, table: str, columns: list[str], which: Callable[[pa.Table], pa.ChunkedArray]
) -> tuple[Found, pa.Table]:
    """The rows that `which` tells, by file, and all of them with these columns."""
    fields = [TABLES[table].field(name) for name in columns]
    found, rows = Found(), [pa.schema(fields).empty_table()]
    for file in market.files(table):
        every = read_file(file, table, fields)
        mask = pc.fill_null(which(every), False)
        if pc.any(mask).as_py():
            found[file] = mask
            rows.append(every.filter(mask))
    return found, pa.concat_tables(rows)


def _take_out(found: Found) -> None:
    """Write each file again without these rows, all files before the first of them is replaced."""
    with atomic_files(*found) as fresh:
        for (file, mask), target in zip(found.items(), fresh, strict=True):
            source, start = pq.ParquetFile(file), 0
            with pq.ParquetWriter(target, source.schema_arrow, compression="zstd") as writer:
                for batch in source.iter_batches(_ROWS):
                    kept = pc.invert(mask.slice(start, len(batch))).combine_chunks()
                    writer.write_batch(batch.filter(kept))
                    start += len(batch)


def _count(found: Found) -> int:
    return sum(pc.sum(mask).as_py() for mask in found.values())
