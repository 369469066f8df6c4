"""An index as it is at one moment, to be copied while its owner writes and compacts: its generation and its log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mercato.copying import Piece
from mercato.manifest import MANIFEST
from mercato.retrieval.engines.qdrant_edge.columns import FOLDER
from mercato.retrieval.engines.qdrant_edge.generations import META, POINTER, current, hold, read_meta
from mercato.retrieval.engines.qdrant_edge.log import segment, segments, whole_bytes
from mercato.retrieval.engines.qdrant_edge.opened import SHARD
from mercato.retrieval.protocol import FrozenIndex


@contextmanager
def freeze(folder: Path) -> Iterator[FrozenIndex]:
    """Hold the served generation, which keeps its log's segments too, whatever a compaction makes of both meanwhile."""
    held = hold(lambda: current(folder))
    try:
        meta = read_meta(held.generation)
        yield FrozenIndex(
            meta["fingerprint"], [*_sealed(held.generation), *_log(folder / meta["log"], meta["segment"])]
        )
    finally:
        held.release()


def _sealed(generation: Path) -> Iterator[Piece]:
    """What is never written to again; shards that processes have open lie beside it."""
    yield Piece(POINTER, f"{generation.name}\n".encode())
    for file in (*(generation / SHARD).rglob("*"), *(generation / FOLDER).rglob("*"), *generation.glob(MANIFEST)):
        if file.is_file():
            yield Piece(file.relative_to(generation.parent).as_posix(), file)
    yield Piece(f"{generation.name}/{META}", generation / META)


def _log(log: Path, first: int) -> Iterator[Piece]:
    """The whole batches of the segments that there are; a segment that comes later is left out, and so is its end."""
    for number in segments(log) if log.is_dir() else ():
        if number >= first:
            file = segment(log, number)
            yield Piece(f"{log.name}/{file.name}", file, whole_bytes(file))
