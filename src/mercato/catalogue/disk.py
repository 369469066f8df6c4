"""The room that is left on the disks of a market and its index; writes end while there still is some."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path

KEPT_FREE = 1024**3  # bytes
_FRESH = 1.0  # seconds for which what was found holds


class Disk:
    """Says that the disks are full before they are.

    A full one is a fault wherever it is met, and worse under an index that is mapped into memory: a process that
    touches a page for which there is no room is ended by the system (SIGBUS), without a word.
    """

    def __init__(self, folders: Sequence[Path], kept_free: int = KEPT_FREE) -> None:
        """The folders to look at, each of which exists; `kept_free` bytes are left for others."""
        self._folders, self._kept = tuple(folders), kept_free
        self._free, self._read_at = 0, -_FRESH

    @property
    def free(self) -> int:
        """The bytes that are free on the fullest of the disks."""
        if time.monotonic() - self._read_at >= _FRESH:
            self._free = min(shutil.disk_usage(folder).free for folder in self._folders)
            self._read_at = time.monotonic()
        return self._free

    @property
    def full(self) -> bool:
        """Whether nothing more should be written."""
        return self.free < self._kept

    def has_room_for(self, folder: Path) -> bool:
        """Whether a copy of a folder can be written, as a compaction does of an index."""
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        return self.free - size >= self._kept
