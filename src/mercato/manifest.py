"""Files that were damaged since they were written: told by name, in one line, with what makes them good again.

A folder that is written once has a manifest of its files: how long each is, and a digest of it. Whoever reads one of
them does so within `reading`: a file that is not as it was written is refused before a library trips over it, and
whatever a library says of one is one line. A folder of an earlier version has no manifest, and is read as it is.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any

from mercato.errors import DamagedError, MercatoError
from mercato.files import write_atomic

MANIFEST = "manifest.json"
AT_START = 512 << 20  # bytes: so much is digested where a folder is opened, in half a second at most
_ANEW = "put it back, or make the folder anew"
_BLOCK = 64 << 10
_ZEROS = bytes(_BLOCK)
_LACKING = {errno.EMFILE, errno.ENFILE, errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM}
_SHA256, _BLOCKS = "sha256", "sha256_of_blocks"


def write_manifest(folder: Path, names: Iterable[str], *, sparse: bool = False) -> None:
    """Say of a folder's files what they are now; of others the manifest says what it said before, if they are there.

    Digests are SHA-256. Of files with holes they are that of the blocks of 64 KiB in which something stands, with
    their places: an engine allocates hundreds of megabytes ahead.
    """
    file = folder / MANIFEST
    before = _files(file, _ANEW) if file.is_file() else {}
    kind = _BLOCKS if sparse else _SHA256
    told = {name: {"size": (folder / name).stat().st_size, kind: _digest(folder / name, kind)} for name in names}
    files = {name: entry for name, entry in sorted((before | told).items()) if (folder / name).is_file()}
    write_atomic(file, _content(files))


def listed(folder: Path, mend: str = _ANEW) -> dict[str, int]:
    """The files that a folder's manifest names, and how long each is; every byte of the manifest is as it was written.

    Raises:
        DamagedError: there is no manifest, it is broken, or it names what does not lie in its folder.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise DamagedError(f"{file} is missing: {mend}")
    files = _files(file, mend)
    if _content(files) != file.read_bytes():
        raise DamagedError(f"{file} is damaged: it does not hold what was written: {mend}")
    if outside := [name for name in files if not _lies_within(name)]:
        raise DamagedError(f"{file} names a file outside of its folder, {outside[0]!r}: {mend}")
    return {name: int(entry["size"]) for name, entry in files.items()}


def damage(folder: Path, *, most: int | None = AT_START, mend: str = _ANEW) -> list[tuple[str, str]]:
    """Which files are not as the folder's manifest says, each with what is wrong; none where it has no manifest.

    Digested are the smallest files, up to `most` bytes in all (None: every file); all others have to be as long as
    they were.

    Raises:
        DamagedError: the manifest itself is broken; `mend` ends the message.
    """
    if not (folder / MANIFEST).is_file():
        return []
    found, left = [], most
    for name, entry in sorted(_files(folder / MANIFEST, mend).items(), key=lambda item: int(item[1]["size"])):
        left = None if left is None else left - int(entry["size"])
        if wrong := _wrong(folder / name, entry, content=left is None or left >= 0):
            found.append((name, wrong))
    return found


def check(folder: Path, mend: str) -> None:
    """Refuse a folder with `damage`, as `reading` does one of its files."""
    for name, wrong in damage(folder, mend=mend):
        raise DamagedError(f"{folder / name} {wrong}: {mend}")


@contextmanager
def reading(file: Path, mend: str) -> Iterator[None]:
    """Read a file in the block.

    Raises:
        DamagedError: it is not what its folder's manifest says, or whatever the block raised of it; `mend`, which says
            what to do, ends it.
    """
    listed = file.parent / MANIFEST
    entry = _files(listed, mend).get(file.name) if listed.is_file() else None
    if entry and (wrong := _wrong(file, entry, content=int(entry["size"]) <= AT_START)):
        raise DamagedError(f"{file} {wrong}: {mend}")
    with one_line(file, mend):
        yield


@contextmanager
def one_line(file: Path, mend: str) -> Iterator[None]:
    """As `reading`, whatever the manifest says. Where the system lacks something, the file is not to blame."""
    try:
        yield
    except (DamagedError, ModuleNotFoundError):  # the latter: an extra is not installed
        raise
    except MercatoError as error:  # it names the file
        raise DamagedError(f"{_one_line(error)}: {mend}") from error
    except BaseException as error:
        if isinstance(error, OSError) and error.errno in _LACKING:
            raise
        if isinstance(error, Exception) or type(error).__name__ == "PanicException":  # the latter is Rust's
            raise DamagedError(f"{file} cannot be read: {_one_line(error)}: {mend}") from error
        raise


def _content(files: dict[str, dict[str, Any]]) -> bytes:
    return (json.dumps({"files": files}, indent=1) + "\n").encode()


def _lies_within(name: str) -> bool:
    parts = PurePosixPath(name).parts
    return bool(parts) and ".." not in parts and not name.startswith("/")


def _files(manifest: Path, mend: str) -> dict[str, dict[str, Any]]:
    try:
        files: dict[str, dict[str, Any]] = json.loads(manifest.read_bytes())["files"]
        for entry in files.values():
            int(entry["size"]), str(entry[_kind(entry)])
        return files
    except Exception as error:
        raise DamagedError(
            f"{manifest}, which says what the files beside it have to be, cannot be read: {_one_line(error)}: {mend}"
        ) from None


def _kind(entry: dict[str, Any]) -> str:
    return _BLOCKS if _BLOCKS in entry else _SHA256


def _wrong(file: Path, entry: dict[str, Any], content: bool) -> str | None:
    """What is wrong with a file; `content`: not only with its length."""
    try:
        size = file.stat().st_size
        if size != entry["size"]:
            return f"is damaged: it has {size:,} bytes, and had {entry['size']:,} when it was written"
        if content and _digest(file, _kind(entry)) != entry[_kind(entry)]:
            return "is damaged: it does not hold what was written"
    except FileNotFoundError:
        return "is missing"
    return None


def _digest(file: Path, kind: str) -> str:
    with file.open("rb") as content:
        if kind == _SHA256:
            return hashlib.file_digest(content, "sha256").hexdigest()
        digest, end = hashlib.sha256(), 0
        while (at := _block_with_data(content.fileno(), end)) is not None:
            block = os.pread(content.fileno(), _BLOCK, at)
            if block != _ZEROS[: len(block)]:
                digest.update(at.to_bytes(8, "little") + block)
            end = at + len(block)
        return digest.hexdigest()


def _block_with_data(file: int, at: int) -> int | None:
    """The beginning of the next block that is no hole."""
    try:
        found = os.lseek(file, at, os.SEEK_DATA)
    except OSError as error:
        if error.errno != errno.ENXIO:
            raise
        return None
    return found - found % _BLOCK


def _one_line(error: BaseException) -> str:
    told = getattr(error, "strerror", None) or str(error) or type(error).__name__
    line = " ".join("".join(each if each.isprintable() else " " for each in str(told)).split())
    return line if len(line) <= 300 else f"{line[:300]}…"
