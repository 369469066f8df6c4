"""What processes weigh, as far as the system tells (Linux does)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

_MEGABYTE = 1000  # kB
_KINDS = {"rss_mb": "Rss", "pss_mb": "Pss", "pss_anonymous_mb": "Pss_Anon"}


def tree(root: int) -> list[int]:
    """A process and all under it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def memory(pids: Iterable[int]) -> dict[str, float] | None:
    """Megabytes of these processes, of which some may have ended; None where the system does not tell.

    `rss_mb` counts memory that several processes share once for each, `pss_mb` once in all, memory-mapped files
    included as far as they are in memory; of that, `pss_anonymous_mb` is what no file backs.
    """
    if not Path("/proc/self/smaps_rollup").is_file():
        return None
    totals = dict.fromkeys(_KINDS, 0)
    for pid in pids:
        with suppress(OSError):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            kilobytes = dict(re.findall(r"^(\w+): +(\d+) kB$", rollup, re.MULTILINE))
            for kind, name in _KINDS.items():
                totals[kind] += int(kilobytes[name])
    return {kind: round(total / _MEGABYTE, 1) for kind, total in totals.items()}


def open_files(pid: int) -> int | None:
    """How many files, connections included, a process has open; None where the system does not tell."""
    try:
        return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return None
