"""Tidying: the files into which logged rows are moved, one every few seconds, become one an hour and then one a day.

A merged file is written beside those that it holds, under a name that covers theirs. From that one rename on they are
not read any more (`mercato.data.live`); then they are removed. A process killed in between loses and doubles nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from itertools import groupby

import pyarrow as pa
import pyarrow.parquet as pq
from filelock import Timeout

from mercato.catalogue.log_mover import LogMover
from mercato.data.live import LiveFile, live_file_name, moved_at, rewriting_lock, split_merged, when_moved
from mercato.data.market import Market, read_file
from mercato.data.schema import TABLES
from mercato.errors import MercatoError
from mercato.files import atomic_files, sweep

log = logging.getLogger("mercato.tidying")

Files = Sequence[tuple[LiveFile, datetime]]  # and when each was moved

_GROUP = 100_000  # rows that are read together, and stand together in a merged file


def tidy(market: Market, movers: Sequence[LogMover], now: datetime, ended: Callable[[], bool] = lambda: False) -> None:
    """Tidy what these have moved, as far as one comes until it has `ended`; each merge is whole.

    The files of a past hour of today become one, and those of a past day; a file goes once all that it holds was moved
    more than `retention_days` ago, where the market has these. Nothing is done while somebody reads the log.
    """
    try:
        with rewriting_lock(market.path, timeout=0):
            for mover in movers:
                with mover.moving():
                    sweep(mover.folder, "live-*")
                live, merged = split_merged(mover.folder.glob("live-*.parquet"))
                for file in merged:
                    file.unlink()
                files = [(file, when_moved(file.path)) for file in live]
                _merge(mover.table, _without_old(market, files, now), now, ended)
    except Timeout:
        pass


def _merge(table: str, files: Files, now: datetime, ended: Callable[[], bool]) -> None:
    """Merge neighbours of one catalogue whose hour or day is over; one that cannot be read hinders no others."""
    for (_, period), together in groupby(files, lambda each: (each[0].catalogue, _period(each[1], now))):
        parts = [*together]
        if len(parts) > 1 and period and not ended():
            try:
                _merge_into_one(table, parts)
            except MercatoError as error:
                log.error("%d live files are left as they are: %s", len(parts), error)


def _period(moved: datetime, now: datetime) -> str:
    """The day or, today, the hour in which a file was moved, where that is over; else ""."""
    day, hour = moved.strftime("%F"), moved.strftime("%FT%H")
    if day < now.strftime("%F"):
        return day
    return hour if hour < now.strftime("%FT%H") else ""


def _merge_into_one(table: str, parts: Files) -> None:
    (first, _), (last, _) = parts[0], parts[-1]
    schema = TABLES[table].with_metadata(moved_at(max(moved for _, moved in parts)))
    target = first.path.with_name(live_file_name(first.catalogue, first.first, last.last))
    with (
        atomic_files(target, mode=0o600) as (fresh,),
        pq.ParquetWriter(fresh, schema, compression="zstd") as writer,
    ):
        waiting, rows = list[pa.Table](), 0
        for part, _ in parts:
            waiting.append(read_file(part.path, table, [*TABLES[table]]))
            rows += len(waiting[-1])
            if rows >= _GROUP or part is last:
                writer.write_table(pa.concat_tables(waiting).cast(schema))
                waiting, rows = [], 0
    for part, _ in parts:
        part.path.unlink()


def _without_old(market: Market, files: Files, now: datetime) -> Files:
    """Remove the files that are older than the market keeps."""
    if market.config.retention_days is None:
        return files
    oldest = now - timedelta(days=market.config.retention_days)
    for file, moved in files:
        if moved < oldest:
            file.path.unlink()
    return [each for each in files if each[1] >= oldest]
