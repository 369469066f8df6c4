"""Attacks on a server: how long they last, who searches meanwhile, and what they cost.

MERCATO_CHAOS is the one knob: where it is set (`make chaos`), attacks are long and every answer has to come within a
second; else they are short, and nothing depends on speed.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from mercato.benchmarks.serve.processes import memory, tree
from mercato.disk import bytes_in
from tests.support.served import wait_until
from tests.support.sockets import Client

T = TypeVar("T")

LONG = bool(os.environ.get("MERCATO_CHAOS"))
SECONDS = 1.0  # within which a search is answered, in the long form


def times(short: T, long: T) -> T:
    """The one or the other, by the knob."""
    return long if LONG else short


class Prober:
    """Searches all the time, over a new connection each time, until the block ends.

    A search whose process dies, or that is refused by a server at its capacity, is asked again, and counts from when it
    was asked first.
    """

    def __init__(self, port: int, threads: int = 2) -> None:
        self._client, self._ended = Client(port), False
        self._outages = 0  # begun and ended
        self._threads = [threading.Thread(target=self._work) for _ in range(threads)]
        self.seconds: list[float] = []  # of each that was answered
        self.again: list[str] = []  # why some were asked again
        self.errors: list[str] = []

    def __enter__(self) -> Prober:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        for thread in self._threads:
            thread.join()
        self._client.close()

    @contextmanager
    def without_a_server(self) -> Iterator[None]:
        """A block in which nobody is there to answer: what is asked before it ends does not count."""
        self._outages += 1
        try:
            yield
        finally:
            self._outages += 1

    def wait_for_more(self, searches: int = 5) -> None:
        """Wait until so many more were answered."""
        wanted = len(self.seconds) + searches
        wait_until(lambda: len(self.seconds) >= wanted or self.errors)

    def _work(self) -> None:
        while not self._ended:
            outages, start, said = self._outages, time.monotonic(), ""
            while not self._ended and outages == self._outages and (said := self._asked()) in ("0", "503", "refused"):
                if outages % 2 == 0:
                    self.again.append(said)
                time.sleep(0.02)
            if outages == self._outages and outages % 2 == 0:
                if said == "answered":
                    self.seconds.append(time.monotonic() - start)
                elif not self._ended:
                    self.errors.append(said)
            time.sleep(0.01)

    def _asked(self) -> str:
        try:
            status, received = self._client.search()
        except ConnectionError:
            return "refused"
        except OSError as error:
            return type(error).__name__
        return "answered" if status == 200 and b'"product_id"' in received else str(status)


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
