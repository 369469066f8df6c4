"""The wake-up call: workers tell the server that the outbox has something; one that is killed leaves no lock."""

from __future__ import annotations

import socket
from collections.abc import Callable
from contextlib import suppress
from threading import Thread
from typing import Self


class WakeSender:
    """The workers' end, which a spawned process may be given: a call never waits."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end

    def __call__(self) -> None:
        """Wake; it is enough that a call is under way already."""
        with suppress(BlockingIOError, BrokenPipeError):
            self._end.send(b"\0", socket.MSG_DONTWAIT)


class WakeReceiver:
    """The server's end: a thread that calls `wake` once for any number of calls that came together."""

    def __init__(self, wake: Callable[[], None]) -> None:
        self._wake = wake
        self._end, sender = socket.socketpair()
        self.sender = WakeSender(sender)
        self._sending = sender
        self._thread = Thread(target=self._listen, name="wake", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._sending.shutdown(socket.SHUT_WR)
        self._thread.join()
        self._sending.close()
        self._end.close()

    def _listen(self) -> None:
        while self._end.recv(4096):
            self._wake()
