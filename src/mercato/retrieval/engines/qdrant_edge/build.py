"""How a generation is made: of entries alone, or of another generation and its log.

`python -m mercato.retrieval.engines.qdrant_edge.build OLD FRESH UPTO PARENT` does the latter for as long as the process
PARENT lives: the engine holds the GIL for as long as it writes points and links the graph.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import qdrant_edge as qdrant

from mercato.copying import copy_sparse
from mercato.disk import bytes_in, check_room
from mercato.files import sync_tree, write_atomic
from mercato.manifest import write_manifest
from mercato.retrieval.engines.qdrant_edge.columns import FOLDER, Columns, ColumnsWriter
from mercato.retrieval.engines.qdrant_edge.elsewhere import end_with
from mercato.retrieval.engines.qdrant_edge.generations import META, read_meta
from mercato.retrieval.engines.qdrant_edge.log import Entry, LogReader
from mercato.retrieval.engines.qdrant_edge.opened import SHARD, linked
from mercato.retrieval.engines.qdrant_edge.shard import MAPPED, build_graph, create, optimise, point
from mercato.retrieval.hybrid import Rows

_BATCH = 256  # points an update
_DEAD = 1 / 3  # of a generation's rows at most


def build(fresh: Path, dimension: int, entries: Iterable[Entry]) -> int:
    """Write shard and columns of these products into an empty generation; of one product's the last stands.

    Returns the number of products.
    """
    count = _anew(fresh, dimension, entries)
    build_graph(fresh / SHARD, count)
    return count


def compact(old: Path, fresh: Path, upto: int) -> None:
    """Write a generation into the folder `fresh`: the sealed rows of `old`, then its log's before segment `upto`.

    A row is the id of its point, so that dead rows stay where the shard is copied, which saves linking its graph. Where
    there would be too many it is built anew, of what is alive.
    """
    meta = read_meta(old)
    last = {entry.product_id: entry for entry in LogReader(old.parent / meta["log"], meta["segment"], upto).news()}
    columns = Columns(old, meta["dimension"])
    lost = (row for product_id in last if (row := columns.row_of(product_id)) is not None)
    gone = {*lost, *columns.whole("gone").tolist()}
    written = [entry for entry in last.values() if not entry.deleted]
    if len(gone) > _DEAD * (len(columns) + len(written)):
        living_K = np.setdiff1d(np.arange(len(columns)), [*gone])
        with linked(old) as shard:
            count = _anew(fresh, meta["dimension"], chain(_entries(columns, shard, living_K), written))
    else:
        count = _go_on(old, fresh, columns, written, gone)
    optimise(fresh / SHARD)  # here: where that takes long, this process is for nothing else
    meta |= {"count": count, "segment": upto, "built_at": datetime.now(UTC).isoformat(timespec="seconds")}
    seal(fresh, meta)


def seal(fresh: Path, meta: Mapping[str, Any]) -> None:
    """Say what a whole generation is, and return once it would survive a power cut: what it was made of may go then."""
    write_atomic(fresh / META, json.dumps(meta, indent=2))
    sealed = [file for name in (SHARD, FOLDER) for file in (fresh / name).rglob("*") if file.is_file()]
    write_manifest(fresh, [META, *(file.relative_to(fresh).as_posix() for file in sealed)], sparse=True)
    sync_tree(fresh)


def _anew(fresh: Path, dimension: int, entries: Iterable[Entry]) -> int:
    """These products alone."""
    shard = create(fresh / SHARD, dimension)
    try:
        return _write(shard, ColumnsWriter(fresh), entries)
    finally:
        shard.close()


def _go_on(old: Path, fresh: Path, columns: Columns, written: Iterable[Entry], gone: Iterable[int]) -> int:
    """The sealed rows as they are, those gone too, and what was written behind them."""
    check_room(fresh, bytes_in(old / SHARD) + MAPPED)
    shutil.copytree(old / SHARD, fresh / SHARD, copy_function=copy_sparse)
    shard = qdrant.EdgeShard.load(str(fresh / SHARD))
    try:
        return _write(shard, ColumnsWriter(fresh, begin=columns), written, gone)
    finally:
        shard.close()


def _entries(columns: Columns, shard: qdrant.EdgeShard, rows_K: Rows) -> Iterator[Entry]:
    """Sealed rows as they were written."""
    for at in range(0, len(rows_K), _BATCH):
        some_K = rows_K[at : at + _BATCH]
        fields = {record.id: record.payload or {} for record in shard.retrieve(some_K.tolist(), True, False)}
        yield from columns.entries(some_K, (fields[row] for row in some_K.tolist()))


def _write(shard: qdrant.EdgeShard, columns: ColumnsWriter, entries: Iterable[Entry], gone: Iterable[int] = ()) -> int:
    for batch in _batches(entries):
        check_room(columns.folder, MAPPED)
        rows = range(columns.length, columns.length + len(batch))
        columns.append(batch)
        points = [point(row, entry) for row, entry in zip(rows, batch, strict=True)]
        shard.update(qdrant.UpdateOperation.upsert_points(points))
    dead = columns.seal(gone)
    if dead:
        shard.update(qdrant.UpdateOperation.delete_points([*dead]))
    return columns.length - len(dead)


def _batches(entries: Iterable[Entry]) -> Iterator[list[Entry]]:
    iterator = iter(entries)
    while batch := list(islice(iterator, _BATCH)):
        yield batch


if __name__ == "__main__":
    end_with(int(sys.argv[4]))
    compact(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
