"""How a generation is made: of entries alone, or of another generation and its log.

`python -m mercato.retrieval.engines.qdrant_edge.build OLD FRESH UPTO` does the latter: the engine holds the GIL for as
long as it writes points and links the graph.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path

import qdrant_edge as qdrant

from mercato.files import write_atomic
from mercato.retrieval.engines.qdrant_edge.columns import Columns, ColumnsWriter
from mercato.retrieval.engines.qdrant_edge.generations import META, read_meta
from mercato.retrieval.engines.qdrant_edge.log import Entry, LogReader
from mercato.retrieval.engines.qdrant_edge.opened import SHARD, copy_sparse
from mercato.retrieval.engines.qdrant_edge.shard import build_graph, create, optimise, point

_BATCH = 256  # points an update


def build(fresh: Path, dimension: int, entries: Iterable[Entry]) -> int:
    """Write shard and columns of these products into an empty generation; of one product's the last stands.

    Returns the number of products.
    """
    shard = create(fresh / SHARD, dimension)
    try:
        count = _write(shard, ColumnsWriter(fresh), entries)
    finally:
        shard.close()
    build_graph(fresh / SHARD, count)
    return count


def compact(old: Path, fresh: Path, upto: int) -> None:
    """Write a generation into the folder `fresh`: the sealed rows of `old`, then its log's before segment `upto`."""
    meta = read_meta(old)
    shutil.copytree(old / SHARD, fresh / SHARD, copy_function=copy_sparse)
    last = {entry.product_id: entry for entry in LogReader(old.parent / meta["log"], meta["segment"], upto).news()}
    columns = Columns(old, meta["dimension"])
    lost = [row for product_id in last if (row := columns.row_of(product_id)) is not None]
    shard = qdrant.EdgeShard.load(str(fresh / SHARD))
    try:
        gone = {*lost, *columns.whole("gone").tolist()}
        count = _write(shard, ColumnsWriter(fresh, begin=columns), (e for e in last.values() if not e.deleted), gone)
    finally:
        shard.close()
    optimise(fresh / SHARD)
    meta |= {"count": count, "segment": upto, "built_at": datetime.now(UTC).isoformat(timespec="seconds")}
    write_atomic(fresh / META, json.dumps(meta, indent=2))


def _write(shard: qdrant.EdgeShard, columns: ColumnsWriter, entries: Iterable[Entry], gone: Iterable[int] = ()) -> int:
    for batch in _batches(entries):
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
    compact(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
