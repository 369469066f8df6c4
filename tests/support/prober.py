"""Who searches a server all the time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing import get_context
from typing import Any

from tests.support.sockets import Client


class Prober:
    """Searches all the time, over a new connection each time, until the block ends; in a process of its own, so that
    nothing of the attack delays it but what it does to the server.

    A search whose process dies, or that is refused by a server at its capacity, is asked again, and counts from when it
    was asked first.
    """

    def __init__(self, port: int) -> None:
        context = get_context("spawn")
        self._answered, self._outages = context.Value("q"), context.Value("q")  # begun and ended
        self._ended, (self._told, tell) = context.Event(), context.Pipe()
        self._process = context.Process(
            target=_probe, args=(port, self._answered, self._outages, self._ended, tell), daemon=True
        )
        self.seconds: list[float] = []  # of each that was answered
        self.again: list[str] = []  # why some were asked again
        self.errors: list[str] = []

    def __enter__(self) -> Prober:
        self._process.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self.seconds, self.again, self.errors = self._told.recv()
        self._process.join()

    @contextmanager
    def without_a_server(self) -> Iterator[None]:
        """A block in which nobody is there to answer: what is asked before it ends does not count."""
        self._outages.value += 1
        try:
            yield
        finally:
            self._outages.value += 1

    def wait_for_more(self, searches: int = 5) -> None:
        """Wait until so many more were answered."""
        from tests.support.served import wait_until  # here: the process that searches need not load all that

        wanted = self._answered.value + searches
        wait_until(lambda: self._answered.value >= wanted)


def _probe(port: int, answered: Any, outages: Any, ended: Any, tell: Any) -> None:
    seconds, again, errors = [], [], []

    def work() -> None:
        client = Client(port)
        while not ended.is_set():
            outage, start, said = outages.value, time.monotonic(), ""
            while not ended.is_set() and outage == outages.value and (said := _asked(client)) in ("0", "503"):
                if outage % 2 == 0:
                    again.append(said)
                time.sleep(0.02)
            client.opened.clear()
            if outage == outages.value and outage % 2 == 0:
                if said == "answered":
                    seconds.append(time.monotonic() - start)
                    answered.value += 1
                elif not ended.is_set():
                    errors.append(said)
            time.sleep(0.01)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tell.send((seconds, again, errors))


def _asked(client: Client) -> str:
    """What came of a search: a status, where it is not as it should be; 0: nothing came."""
    try:
        status, received = client.search()
    except ConnectionError:
        return "0"
    except OSError as error:
        return type(error).__name__
    return "answered" if status == 200 and b'"product_id"' in received else str(status)
