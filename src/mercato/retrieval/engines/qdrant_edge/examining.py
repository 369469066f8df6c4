"""An index looked through for damage: each generation's files by their digests, and its log by its checksums."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from mercato.errors import MercatoError
from mercato.manifest import damage
from mercato.retrieval.engines.qdrant_edge.generations import Held, generations, mend, read_meta
from mercato.retrieval.engines.qdrant_edge.log import segment, segments, whole_bytes
from mercato.retrieval.engines.qdrant_edge.opened import Opened


def examine(folder: Path) -> list[str]:
    """Every problem of the served generation and of the standby, in a line each."""
    try:
        return [line for generation in generations(folder) for line in _problems(generation, mend(folder))]
    except MercatoError as error:
        return [str(error)]


def _problems(generation: Path, again: str) -> Iterator[str]:
    with suppress(FileNotFoundError):  # a compaction has taken its place meanwhile
        held = Held.of(generation)
        try:
            if found := damage(generation, most=None, mend=again):
                yield from (f"{generation / name} {wrong}: {again}" for name, wrong in found)
                return
            meta = read_meta(generation)
            yield from _gaps(generation.parent / meta["log"], meta["segment"], again)
        finally:
            held.release()
        Opened.found(lambda: generation).close()


def _gaps(log: Path, first: int, again: str) -> Iterator[str]:
    """What is missing of a log from a segment on. The last one may be longer than what is whole: it grows."""
    numbers = [number for number in segments(log) if number >= first] if log.is_dir() else []
    for number in range(first, max(numbers, default=first)):
        file = segment(log, number)
        if not file.is_file():
            yield f"{file} is missing: {again}"
        elif (size := file.stat().st_size) != (whole := whole_bytes(file)):
            yield f"{file} is damaged: of its {size:,} bytes {whole:,} can be read: {again}"
