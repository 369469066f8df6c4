"""Bounded concurrency: so many calls run, so many wait, and the next one is told to come back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


class OverloadError(Exception):
    """The server is at its capacity, or the call took too long; it may be tried again."""


class BoundedExecutor:
    """Runs blocking calls in at most `running` threads while at most `waiting` more wait for one.

    A thread cannot be stopped: a call that exceeds `timeout_seconds` (its wait included) is answered at once, and its
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
        if self._inside >= self._capacity:
            raise OverloadError("the server is at its capacity; try again in a second")
        self._inside += 1
        loop = asyncio.get_running_loop()
        work: Future[T] = self._pool.submit(call)
        work.add_done_callback(lambda _: loop.call_soon_threadsafe(self._leave))
        try:
            return await asyncio.wait_for(asyncio.wrap_future(work), self._timeout)
        except TimeoutError:
            raise OverloadError(f"no answer within {self._timeout:g} s; try again in a second") from None

    def close(self) -> None:
        """Wait for what runs and refuse everything after."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _leave(self) -> None:
        self._inside -= 1
