"""Copies of files: with their holes, modes and times, and of what grows only what it held at some moment."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

_AT_ONCE = 16 << 20  # bytes between two words of progress


@dataclass(frozen=True, slots=True)
class Piece:
    """A file to be copied: its name in the copy, and where what it holds lies, or that itself.

    Of a file that grows the first `size` bytes are copied; None: all that it holds then.
    """

    name: str
    source: Path | bytes
    size: int | None = None

    @property
    def on_disk(self) -> int:
        """The bytes that it takes on its disk."""
        if isinstance(self.source, bytes):
            return len(self.source)
        taken = self.source.stat().st_blocks * 512
        return taken if self.size is None else min(taken, self.size)

    def copy(self, folder: Path, copied: Callable[[int], object] = lambda _: None) -> None:
        """Copy it into a folder, with its mode and times; `copied` is told of bytes as they come."""
        target = folder / self.name
        target.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))  # nobody else's before it has its mode
        if isinstance(self.source, bytes):
            target.write_bytes(self.source)
            target.chmod(0o644)
        else:
            copy_sparse(self.source, target, self.size, copied)
            shutil.copystat(self.source, target)


def copy_sparse(
    source: str | Path, target: str | Path, size: int | None = None, copied: Callable[[int], object] = lambda _: None
) -> None:
    """Copy a file, or the first bytes of it, with its holes: an engine allocates its files 32 MB ahead."""
    with Path(source).open("rb") as old, Path(target).open("wb") as new:
        there, at = os.fstat(old.fileno()).st_size, 0
        size = there if size is None else min(size, there)
        new.truncate(size)
        while at < size:
            try:
                at = os.lseek(old.fileno(), at, os.SEEK_DATA)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                return  # a hole up to the end
            end = min(os.lseek(old.fileno(), at, os.SEEK_HOLE), size)
            while at < end:
                new.seek(at)
                sent = os.sendfile(new.fileno(), old.fileno(), at, min(end - at, _AT_ONCE))
                if not sent:
                    raise OSError(errno.EIO, "became shorter while it was copied", str(source))
                at += sent
                copied(sent)
