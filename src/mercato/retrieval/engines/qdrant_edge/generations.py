"""The folder of an embedded index: generations side by side, and one small file that says which of them is served.

    INDEX/current             the name of the served generation, swapped by one rename
    INDEX/generation-…/  shard/ (the engine's files), columns/, meta.json, lock (shared by whoever has it open)
    INDEX/log-…/              what is written since: of a generation, and of those that a compaction made of it

A reader keeps the generation that it opened. One that is neither served nor held is removed when the next is built, and
with it the log, or its segments, that no generation reads.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from mercato.errors import MercatoError
from mercato.files import atomic_directory, write_atomic
from mercato.retrieval.engines.qdrant_edge.log import segment, segments

META = "meta.json"
_POINTER, _LOCK = "current", "lock"


@dataclass
class Held:
    """A generation that will not be removed until it is released."""

    generation: Path
    _file: int

    @classmethod
    def of(cls, generation: Path) -> Held:
        """Hold a generation, beside anybody else who does."""
        file = os.open(generation / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
        fcntl.flock(file, fcntl.LOCK_SH)
        return cls(generation, file)

    def release(self) -> None:
        """Let go of it."""
        os.close(self._file)


def current(folder: Path) -> Path:
    """Return the served generation's folder; a MercatoError says that there is none."""
    try:
        generation = folder / (folder / _POINTER).read_text().strip()
    except OSError:
        raise MercatoError(
            f"{folder} holds no index: build one with `mercato index RUN --market DIR --to {folder}`"
        ) from None
    if not (generation / META).is_file():
        raise MercatoError(f"{folder} is broken: its generation {generation.name} is missing. Build the index again")
    return generation


def served(folder: Path) -> tuple[int, int]:
    """Something that is another one whenever another generation is served; cheap enough to ask for each search."""
    try:
        stat = (folder / _POINTER).stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_ino, stat.st_mtime_ns


def hold_current(folder: Path) -> Held:
    """Hold the served generation."""
    while True:
        generation = current(folder)
        try:
            held = Held.of(generation)
        except FileNotFoundError:
            continue  # removed in between, as another is served
        if current(folder) == generation:
            return held
        held.release()  # a new generation came in between


@contextmanager
def next_generation(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes the served generation when the block ends without an error."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"generation-{uuid4().hex[:12]}"
    with ExitStack() as held:
        with atomic_directory(folder / name) as fresh:
            held.callback(Held.of(fresh).release)
            yield fresh
        write_atomic(folder / _POINTER, name + "\n")
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove the generations that are neither served nor held, what a killed build has left, and logs nobody reads."""
    kept = current(folder)
    for generation in (*folder.glob("generation-*"), *folder.glob(".generation-*")):
        if generation != kept:
            with suppress(FileNotFoundError):  # removed, or renamed, by somebody else meanwhile
                _remove_free(generation)
    read = []
    for meta in (*folder.glob(f"generation-*/{META}"), *folder.glob(f".generation-*/{META}")):
        with suppress(FileNotFoundError):
            read.append(json.loads(meta.read_text()))
    for log in folder.glob("log-*"):
        first = min((meta["segment"] for meta in read if meta["log"] == log.name), default=None)
        if first is None:
            shutil.rmtree(log, ignore_errors=True)
        else:
            for number in segments(log):
                if number < first:
                    segment(log, number).unlink(missing_ok=True)


def _remove_free(generation: Path) -> None:
    """Remove a generation unless somebody holds it."""
    file = os.open(generation / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(generation, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(file)
