"""Attacks on a server: how long they last, who searches meanwhile, and what they cost.

MERCATO_CHAOS is the one knob: where it is set (`make chaos`), attacks are long and every answer has to come within a
second; else they are short, and nothing depends on speed.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mercato.benchmarks.serve.processes import memory, tree
from mercato.disk import bytes_in
from tests.support.prober import Prober

T = TypeVar("T")

LONG = bool(os.environ.get("MERCATO_CHAOS"))
SECONDS = 1.0  # within which a search is answered, in the long form


def times(short: T, long: T) -> T:
    """The one or the other, by the knob."""
    return long if LONG else short


@dataclass
class Attack:
    """What became of one, for the table that `make chaos` ends with."""

    name: str
    prober: Prober
    memory_mb: list[float] = field(default_factory=list)  # before, at its highest, after
    disk_mb: list[float] = field(default_factory=list)  # before, after
    checked: int = 0  # acknowledged writes that were looked for when it was over
    lost: int = 0

    def row(self) -> dict[str, object]:
        """As JSON."""
        seconds = self.prober.seconds
        return {
            "attack": self.name,
            "searches": len(seconds),
            "slowest_ms": round(1000 * max(seconds, default=0.0)),
            "asked_again": len(self.prober.again),
            "errors": len(self.prober.errors),
            "memory_mb": self.memory_mb,
            "disk_mb": self.disk_mb,
            "checked": self.checked,
            "lost": self.lost,
        }


@contextmanager
def attacked(name: str, port: int, server: Callable[[], int], folders: Sequence[Path] = ()) -> Iterator[Attack]:
    """Somebody searches a server while a block attacks it, and is answered, within a second in the long form.

    `server` tells its process, `folders` are what it writes to.
    """
    with Prober(port) as prober:
        attack = Attack(name, prober)
        prober.wait_for_more()
        weighed, over = [_weight(server())], threading.Event()

        def weigh() -> None:
            while not over.wait(0.5):
                weighed.append(_weight(server()))

        scales = threading.Thread(target=weigh)
        scales.start()
        before = _size(folders)
        try:
            yield attack
            prober.wait_for_more()
        finally:
            over.set()
            scales.join()
    attack.memory_mb = [weighed[0], max(weighed), _weight(server())]
    attack.disk_mb = [before, _size(folders)]
    print(attack.row())
    assert not prober.errors, prober.errors[:5]
    assert not LONG or max(prober.seconds) <= SECONDS


def _weight(root: int) -> float:
    return (memory(tree(root)) or {"pss_mb": 0.0})["pss_mb"]


def _size(folders: Sequence[Path]) -> float:
    return round(sum(map(bytes_in, folders)) / 1e6, 1)
