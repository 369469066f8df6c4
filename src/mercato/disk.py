"""The room that is left on a disk: writes end while there still is some."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from mercato.errors import FullError

KEPT_FREE = 1024**3  # bytes


class Disk:
    """Says that a disk is full before it is.

    A full one is a fault wherever it is met, and worse under a file that is mapped into memory, such as an index's: a
    process that touches a page for which there is no room is ended by the system (SIGBUS), without a word.
    """

    def __init__(self, folder: Path, kept_free: int | None = None) -> None:
        """The disk of a folder, of which `kept_free` bytes are left for others; None: `KEPT_FREE`."""
        self._folder, self.kept_free = folder, KEPT_FREE if kept_free is None else kept_free

    @property
    def free(self) -> int:
        """Bytes."""
        return shutil.disk_usage(self._folder).free

    def has_room(self, size: int = 0) -> bool:
        """Whether so many bytes more may be written."""
        return self.free - size >= self.kept_free


def check_room(folder: Path, size: int) -> None:
    """Make sure of room for what a library is about to write through a mapping into memory.

    Raises:
        FullError: the disk of the folder has less than `size` bytes left.
    """
    if not Disk(folder, 0).has_room(size):
        raise FullError(f"{folder}: its disk is full: {size / 1e6:,.0f} MB more may be needed at once")


def allocate(file: Path) -> None:
    """Let a file have no holes, so that it has room for whatever is written into it; an OSError says that it cannot.

    This does nothing on systems that have no such call.
    """
    if hasattr(os, "posix_fallocate"):
        with file.open("r+b") as opened:
            os.posix_fallocate(opened.fileno(), 0, os.fstat(opened.fileno()).st_size)


def bytes_in(folder: Path) -> int:
    """What the files of a folder take on their disk; one that is mapped into memory may say that it is larger."""
    return sum(file.stat().st_blocks * 512 for file in folder.rglob("*") if file.is_file())
