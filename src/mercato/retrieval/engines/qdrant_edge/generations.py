"""The folder of an embedded index: generations side by side, and one small file that says what they are.

    INDEX/current             the name of the served generation, and that of the standby where there is one
    INDEX/generation-…/  shard/ (the engine's files), columns/, meta.json, lock (shared by whoever has it open)
    INDEX/log-…/              what is written since: of a generation, and of those that a compaction made of it
    INDEX/changing            locked by whoever changes `current`, which is one rename

A reader keeps the generation that it opened. One that is neither named nor held is removed when `current` changes or an
owner lets go, and with it the log, or its segments, that no generation reads.
"""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import uuid4

from filelock import FileLock

from mercato.errors import DamagedError, MercatoError
from mercato.files import atomic_directory, sync, write_atomic
from mercato.manifest import one_line
from mercato.retrieval.engines.qdrant_edge.log import segment, segments

META = "meta.json"
POINTER, _LOCK = "current", "lock"
_META = {"engine": str, "fingerprint": str, "log": str, "dimension": int, "count": int, "segment": int}
_NAME = re.compile("generation-[0-9a-f]{12}")


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
    while True:
        names = _names(folder)
        if not names:
            if (folder / POINTER).exists():
                raise DamagedError(f"{folder / POINTER} is damaged: it names no generation: {mend(folder)}")
            raise MercatoError(
                f"{folder} holds no index: build one with `mercato index RUN --market DIR --to {folder}`"
            )
        generation = folder / names[0]
        if (generation / META).is_file():
            return generation
        if names == _names(folder):  # else it was removed in between, as another has taken its place
            raise DamagedError(f"{generation / META} is missing, which {folder / POINTER} names: {mend(folder)}")


def generations(folder: Path) -> list[Path]:
    """Return the served generation's folder and the standby's, as far as there is one."""
    current(folder)
    return [folder / name for name in _names(folder)]


def named(folder: Path, fingerprint: str) -> Path:
    """Return the generation of a fingerprint: served, standby, or held although a build took its place."""
    current(folder)
    built: list[tuple[bool, int, Path]] = []
    for meta in folder.glob(f"generation-*/{META}"):
        with suppress(FileNotFoundError):  # removed meanwhile
            if (read := read_meta(meta.parent))["fingerprint"] == fingerprint:
                built.append((meta.parent.name in _names(folder), read["segment"], meta.parent))
    if not built:
        raise MercatoError(f"{folder} holds no generation {fingerprint!r}, or none any more")
    return max(built)[-1]


def successor(folder: Path, log: str) -> Path:
    """Return the generation that goes on with a log, served or standby; a MercatoError says that neither does."""
    for name in _names(folder):
        with suppress(FileNotFoundError):
            if read_meta(folder / name)["log"] == log:
                return folder / name
    raise MercatoError(f"{folder} has got a newer generation meanwhile: open it again")


def fingerprints(folder: Path) -> list[str]:
    """Return those of the served generation and of the standby, as far as there is one."""
    while True:
        current(folder)
        names = _names(folder)
        try:
            return [read_meta(folder / name)["fingerprint"] for name in names]
        except FileNotFoundError:
            if names == _names(folder):
                missing = next(name for name in names if not (folder / name / META).is_file())
                raise DamagedError(
                    f"{folder / missing / META} is missing, which {folder / POINTER} names: {mend(folder)}"
                ) from None


def read_meta(generation: Path) -> dict[str, Any]:
    """What `build` wrote of a generation.

    A DamagedError says that it cannot be that, a FileNotFoundError that it is gone: a generation that is not held may
    go at any moment, so that only who opens one asks its manifest.
    """
    content = (generation / META).read_text(errors="replace")
    with one_line(generation / META, mend(generation.parent)):
        meta: dict[str, Any] = json.loads(content)
        wrong = [name for name, kind in _META.items() if type(meta[name]) is not kind]
        if wrong or meta["dimension"] < 1:
            raise ValueError(f"{', '.join(wrong) or 'dimension'} is not what it has to be")
        return meta


def mend(folder: Path) -> str:
    """What makes an index good again: it is derived."""
    return f"`mercato index RUN --market DIR --to {folder}` builds it anew"


def stamp(folder: Path) -> tuple[int, int]:
    """Something that is another one whenever other generations are named; cheap enough to ask for each search."""
    try:
        stat = (folder / POINTER).stat()
    except FileNotFoundError:
        return 0, 0
    return stat.st_ino, stat.st_mtime_ns


def hold(find: Callable[[], Path]) -> Held:
    """Hold the generation that `find` returns, now and once it is held."""
    while True:
        generation = find()
        try:
            held = Held.of(generation)
        except FileNotFoundError:
            continue  # removed in between, as another has taken its place
        try:
            if find() == generation:
                return held
        except BaseException:
            held.release()
            raise
        held.release()  # a new generation came in between


@contextmanager
def next_generation(folder: Path, *, standby: bool = False, instead_of: Path | None = None) -> Iterator[Path]:
    """Yield an empty folder that becomes a generation when the block ends without an error.

    It becomes the served one, and there is no standby from then on; or the standby; or what another one then is.
    Raises a MercatoError where that is neither served nor standby by then.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sync(folder.parent)
    name = f"generation-{uuid4().hex[:12]}"
    with ExitStack() as until_named, ExitStack() as whole:
        with _changing(folder):  # so that nobody sweeps it away before it is held
            fresh = whole.enter_context(atomic_directory(folder / name))
            until_named.callback(Held.of(fresh).release)
        yield fresh
        names = until_named.enter_context(_changing(folder))
        if instead_of is None:
            names[:] = [names[0], name] if standby and names else [name]
        elif instead_of.name in names:
            names[names.index(instead_of.name)] = name
        else:
            raise MercatoError(f"{folder} has got a newer generation meanwhile: open it again")
    sweep(folder)


def swap(folder: Path, fingerprint: str | None) -> None:
    """Let the standby be served and the served one stand by; or whichever has the fingerprint be served."""
    with _changing(folder) as names:
        current(folder)
        found = [read_meta(folder / name)["fingerprint"] for name in names]
        if fingerprint is not None and fingerprint not in found:
            raise MercatoError(f"{folder} holds no generation {fingerprint!r} any more")
        if fingerprint == found[0]:
            return
        if len(names) == 1:
            raise MercatoError(
                f"{folder} has no standby: `mercato backfill RUN --market DIR --index {folder}` builds one"
            )
        names.reverse()


def drop(folder: Path) -> None:
    """Let the standby go, where there is one."""
    with _changing(folder) as names:
        current(folder)
        del names[1:]
    sweep(folder)


def sweep(folder: Path) -> None:
    """Remove the generations that are neither named nor held, what killed writers have left, and logs nobody reads."""
    with _changing(folder) as names:
        if not names and (folder / POINTER).exists():
            return  # damaged: what it named is not for us to remove
        for left in folder.glob(f".{POINTER}.*"):  # whoever writes one does so in his turn
            left.unlink()
        for generation in (*folder.glob("generation-*"), *folder.glob(".generation-*")):
            if generation.name not in names:
                with suppress(FileNotFoundError):  # removed, or renamed, by somebody else meanwhile
                    _remove_free(generation)
        read = []
        for meta in (*folder.glob(f"generation-*/{META}"), *folder.glob(f".generation-*/{META}")):
            with suppress(FileNotFoundError):
                read.append(read_meta(meta.parent))
        for log in folder.glob("log-*"):
            first = min((meta["segment"] for meta in read if meta["log"] == log.name), default=None)
            if first is None:
                shutil.rmtree(log, ignore_errors=True)
            else:
                for number in segments(log):
                    if number < first:
                        segment(log, number).unlink(missing_ok=True)


def _names(folder: Path) -> list[str]:
    """The served generation and the standby, as far as there are."""
    try:
        names = (folder / POINTER).read_text().split()
    except (OSError, UnicodeDecodeError):
        return []
    return names if all(map(_NAME.fullmatch, names)) else []


@contextmanager
def _changing(folder: Path) -> Iterator[list[str]]:
    """Yield the names to change; nobody else changes them meanwhile, and one rename writes them."""
    with FileLock(folder / "changing"):
        names = _names(folder)
        before = [*names]
        yield names
        if names != before:
            sync(folder)  # first the generations' own names: these must never outlive them
            write_atomic(folder / POINTER, "\n".join(names) + "\n")


def _remove_free(generation: Path) -> None:
    """Remove a generation unless somebody holds it."""
    file = os.open(generation / _LOCK, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        (generation / META).unlink(missing_ok=True)  # first: whoever finds it holds it, or finds it no more
        shutil.rmtree(generation, ignore_errors=True)
    except BlockingIOError:
        return
    finally:
        os.close(file)
