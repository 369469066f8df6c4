"""Small disks that are really full: tmpfs of a process's own, mounted in a namespace that it begins with.

Anybody may do that on most systems (`unshare`); some of them forbid it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_UNSHARED = ("unshare", "--user", "--map-root-user", "--mount")
_SCRIPT = """
set -e
while [ "$1" != -- ]; do
    mount -t tmpfs -o size="$2" tmpfs "$1".disk
    cp -a --sparse=never "$1"/. "$1".disk
    mount --move "$1".disk "$1"
    shift 2
done
shift
exec "$@"
"""


def allowed(folder: Path) -> bool:
    """Whether this process may mount."""
    tried = (*_UNSHARED, "mount", "-t", "tmpfs", "tmpfs", str(folder))
    return shutil.which("unshare") is not None and not subprocess.run(tried, capture_output=True).returncode


def on_small_disks(sizes: Mapping[Path, int]) -> list[str]:
    """What becomes the command that follows it, with a disk of so many bytes under each folder, which holds the same.

    Nobody else sees these disks, and they go with the process.
    """
    for folder in sizes:
        folder.with_name(f"{folder.name}.disk").mkdir()
    mounts = [part for folder, size in sizes.items() for part in (str(folder), str(size))]
    return [*_UNSHARED, "sh", "-c", _SCRIPT, "sh", *mounts, "--"]


class SmallDisk:
    """One of such a process, filled and emptied from outside."""

    def __init__(self, pid: int, folder: Path) -> None:
        self.folder = Path(f"/proc/{pid}/root{folder.absolute()}")
        self._filler = self.folder / "filler"

    @property
    def free(self) -> int:
        """Bytes."""
        stat = os.statvfs(self.folder)
        return stat.f_bavail * stat.f_frsize

    def fill(self, left: int = 0) -> None:
        """Leave so many bytes."""
        with self._filler.open("ab") as file:
            while (size := self.free - left) > 0:
                with suppress(OSError):  # somebody else has taken some of it
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, size)

    def empty(self) -> None:
        """Remove what filled it."""
        self._filler.unlink(missing_ok=True)
