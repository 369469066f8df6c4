"""Atomic writes: a file or folder appears whole or not at all, and never replaces what Mercato did not write."""

from __future__ import annotations

import ctypes
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from mercato.errors import MercatoError

SERVING = ".serving"  # a market's lock file, held by its server


def ensure_replaceable(target: Path, markers: tuple[str, ...]) -> None:
    """Refuse to replace anything but an empty folder or one that holds every file of `markers`.

    Raises:
        MercatoError: `target` is a file, or a folder of something else; a target that does not exist is fine.
    """
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise MercatoError(f"{target} exists and is not a folder: give a new folder")
    lacking = [name for name in markers if not (target / name).is_file()]
    if lacking and any(target.iterdir()):
        raise MercatoError(
            f"{target} is not empty and holds no {' and no '.join(lacking)}: it is not what this command would replace."
            " Give a new or an empty folder"
        )


@contextmanager
def market_lock(market_path: Path) -> Iterator[None]:
    """Hold a market's lock, as its one server or to replace it; another process is refused at once.

    Raises:
        MercatoError: it is held already.
    """
    refusal = f"another `mercato serve` runs on this market ({market_path}): stop it first"
    with exclusive(market_path / SERVING, refusal):
        yield


@contextmanager
def exclusive(file: Path, refusal: str) -> Iterator[None]:
    """Hold a lock file.

    Raises:
        MercatoError: it is held already; `refusal` says so.
    """
    lock = FileLock(file, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        raise MercatoError(refusal) from None
    try:
        yield
    finally:
        lock.release()


def sync(path: Path) -> None:
    """Return once a file's content, or a folder's names, would survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_tree(folder: Path) -> None:
    """Return once a folder and all that is in it would survive a power cut."""
    for inner, _, names in os.walk(folder, topdown=False):
        for name in names:
            sync(Path(inner) / name)
        sync(Path(inner))


def is_served(market_path: Path) -> bool:
    """Whether somebody holds a market's lock."""
    lock = FileLock(market_path / SERVING, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    lock.release()
    return False


@contextmanager
def atomic_directory(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside `target` that becomes `target` when the block ends without an error.

    An existing `target` is replaced as `replace_directory` does; on an error it is left as it was and the new folder is
    removed.
    """
    target = Path(target).absolute()
    target.parent.mkdir(parents=True, exist_ok=True)
    fresh = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    fresh.chmod(0o755)
    try:
        yield fresh
        replace_directory(fresh, target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)


def replace_directory(fresh: Path, target: Path) -> None:
    """Rename `fresh` to `target`; what stood at `target` is removed only once the new folder is in its place.

    On Linux the two exchange names in one step, so that one of them stands at `target` at every moment. Where the
    system or the file system has no such step there are two renames: a process killed between them leaves no `target`,
    and the old one whole in `.TARGET.old.…/old` beside it.
    """
    if not os.path.lexists(target):
        fresh.rename(target)
        return
    if _exchange(fresh, target):
        _remove(fresh)
        return
    aside = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    try:
        target.rename(aside / "old")
        try:
            fresh.rename(target)
        except OSError:
            (aside / "old").rename(target)
            raise
    finally:
        _remove(aside)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange the names of two existing paths in one step (Linux's renameat2); False where that cannot be done."""
    try:
        rename = ctypes.CDLL(None).renameat2
    except (AttributeError, OSError, TypeError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    return bool(rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0)


def _remove(path: Path) -> None:
    if path.is_symlink() or path.is_file():
        path.unlink()
    else:
        shutil.rmtree(path, ignore_errors=True)


def sweep(folder: Path, targets: str) -> None:
    """Remove what killed processes left of files to be named `targets` (a pattern); none may be being written."""
    for left in folder.glob(f".{targets}.*"):
        left.unlink(missing_ok=True)


def write_atomic(target: Path, content: bytes | str) -> None:
    """Write a file through a temporary neighbour and one rename: once it returns, it survives a power cut."""
    with atomic_files(target) as (fresh,):
        fresh.write_bytes(content.encode() if isinstance(content, str) else content)


@contextmanager
def atomic_files(*targets: Path, mode: int = 0o644) -> Iterator[tuple[Path, ...]]:
    """Yield an empty file beside each target; when the block ends without an error, each is synced and renamed to it.

    The renames come last, one right after the other, and then their folders are synced: on an error before them, every
    target is as it was. `mode` is that of new targets; what is replaced keeps its own. What a killed process leaves is
    hidden, and `sweep` removes it.
    """
    fresh: list[Path] = []
    try:
        for target in targets:
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
            os.close(handle)
            fresh.append(Path(name))
        yield tuple(fresh)
        for file in fresh:
            with file.open("r+b") as written:
                os.fsync(written.fileno())
        for file, target in zip(fresh, targets, strict=True):
            file.chmod(target.stat().st_mode & 0o777 if target.is_file() else mode)
        for file, target in zip(fresh, targets, strict=True):
            file.rename(target)
        for folder in {target.parent for target in targets}:
            sync(folder)
    finally:
        for file in fresh:
            file.unlink(missing_ok=True)
