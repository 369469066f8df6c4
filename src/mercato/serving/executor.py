"""The bounded executor: a thread pool with a bounded queue and a time-out; a call beyond them is refused at once."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

log = logging.getLogger("mercato.serving")

T = TypeVar("T")


class OverloadError(Exception):
    """The queue is full or the call timed out; it may be tried again. Answered as 503 with Retry-After."""


class BoundedExecutor:
    """A thread pool that runs blocking calls in at most `running` threads and queues at most `waiting` more.

    A thread cannot be stopped: a call that exceeds `timeout_seconds` (its wait included) is refused at once, and its
    thread counts as busy until it really ends.
    """

    def __init__(self, name: str, running: int, waiting: int, timeout_seconds: float) -> None:
        self._pool = ThreadPoolExecutor(running, thread_name_prefix=name)
        self._capacity, self._timeout, self._inside = running + waiting, timeout_seconds, 0

    async def run(self, call: Callable[[], T]) -> T:
        """The result of `call()` in a thread; called from one event loop only.

        Raises:
            OverloadError: all places are taken, or the time is over.
        """
        if (work := self._begin(call)) is None:
            raise OverloadError("the server is at its capacity; try again in a second")
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), self._timeout)
        except TimeoutError:
            raise OverloadError(f"no answer within {self._timeout:g} s; try again in a second") from None

    def spare(self, call: Callable[[], None]) -> None:
        """Run `call()` in a thread with nobody waiting for it; not at all where half of the places are taken."""
        if self._inside < self._capacity / 2 and (work := self._begin(call)) is not None:
            work.add_done_callback(_report)

    def _begin(self, call: Callable[[], T]) -> Future[T] | None:
        if self._inside >= self._capacity:
            return None
        self._inside += 1
        loop = asyncio.get_running_loop()
        work: Future[T] = self._pool.submit(call)
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        return work

    def close(self) -> None:
        """Wait for what runs and refuse everything after."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leave(self) -> None:
        self._inside -= 1


def _report(work: Future[None]) -> None:
    if not work.cancelled() and (error := work.exception()) is not None:
        log.error("what nobody waited for failed: %s", type(error).__name__)
