"""The folder of an embedded index: generations side by side, and one small file that says which of them is served.

    INDEX/current             the name of the served generation, swapped by one rename
    INDEX/generation-…/  shard/ (the engine's files), meta.json, lock (held by whoever has it open)

A reader keeps the generation that it opened. One that is neither served nor held is removed when the next is built.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from uuid import uuid4

from filelock import FileLock, Timeout

from mercato.errors import MercatoError
from mercato.files import atomic_directory, write_atomic

_POINTER = "current"


def current(folder: Path) -> Path:
    """Return the served generation's folder; a MercatoError says that there is none."""
    try:
        generation = folder / (folder / _POINTER).read_text().strip()
    except OSError:
        raise MercatoError(
            f"{folder} holds no index: build one with `mercato index RUN --market DIR --to {folder}`"
        ) from None
    if not (generation / "meta.json").is_file():
        raise MercatoError(f"{folder} is broken: its generation {generation.name} is missing. Build the index again")
    return generation


def _lock(generation: Path) -> FileLock:
    return FileLock(generation / "lock", thread_local=False)  # opened in one thread, closed in another


def hold_current(folder: Path) -> tuple[Path, FileLock]:
    """Return the served generation and its lock, now held; a MercatoError says that somebody else holds it."""
    while True:
        generation = current(folder)
        lock = _lock(generation)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise MercatoError(
                f"{folder} is open elsewhere, and an embedded index has one owner: close it there first (a running "
                "`mercato serve`?), or build a new generation, which needs no lock"
            ) from None
        if current(folder) == generation:
            return generation, lock
        lock.release()  # a new generation came in between


@contextmanager
def next_generation(folder: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes the served generation when the block ends without an error."""
    folder.mkdir(parents=True, exist_ok=True)
    name = f"generation-{uuid4().hex[:12]}"
    with ExitStack() as held:
        with atomic_directory(folder / name) as fresh:
            held.enter_context(_lock(fresh))
            yield fresh
        write_atomic(folder / _POINTER, name + "\n")
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove the generations that are neither served nor held, and what a killed build has left."""
    served = current(folder)
    for generation in (*folder.glob("generation-*"), *folder.glob(".generation-*")):
        if generation == served:
            continue
        lock = _lock(generation)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            continue
        shutil.rmtree(generation, ignore_errors=True)
        lock.release()
