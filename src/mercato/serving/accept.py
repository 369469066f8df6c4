"""The event loop of a serving process: uvloop's, which accepts a connection only where there is a place for it."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from contextlib import suppress
from typing import Any, cast

import uvloop

from mercato.serving.answers import raw_answer
from mercato.serving.connections import Connection, Connections, Limits, turned_away

_AT_ONCE = 32  # connections accepted before requests get their turn
_PAUSE_SECONDS = 0.1  # after which one that could not be accepted is tried again
_FULL = raw_answer(503, "too many connections at once; try again in a second")
_FULL_OF_ADDRESS = raw_answer(429, "too many requests at once from one address; try again in a second")


class Loop(uvloop.Loop):
    """Uvloop's, with the connections that its process holds."""

    def __init__(self, limits: Limits) -> None:
        super().__init__()
        self.connections = Connections(self, limits)

    async def create_server(self, protocol_factory: Any, *_: Any, sock: Any = None, **__: Any) -> Any:
        """Accept at a listening socket, within the limits."""
        self.connections.start()
        return Acceptor(self, sock, protocol_factory, self.connections)


class Acceptor:
    """Accepts at a listening socket, which others may accept at as well.

    Asyncio logs a traceback for every try at which there is no file descriptor; this one pauses, and lets the
    connection that has waited the longest go.
    """

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        listening: socket.socket,
        make: Callable[[], asyncio.Protocol],
        connections: Connections,
    ) -> None:
        self._loop, self._listening, self._make, self._connections = loop, listening, make, connections
        self._open, self._beginning = True, set[asyncio.Task[None]]()
        listening.setblocking(False)
        self._go_on()

    def close(self) -> None:
        """Accept no more."""
        self._open = False
        self._loop.remove_reader(self._listening.fileno())

    async def wait_closed(self) -> None:
        """Nothing is left to wait for."""

    def _go_on(self) -> None:
        if self._open:
            self._loop.add_reader(self._listening.fileno(), self._accept)

    def _accept(self) -> None:
        full = self._connections.full
        if full and self._connections.make_room():
            return  # as one is waiting still, this is called again, and then there is a place
        for _ in range(_AT_ONCE):
            if self._connections.full and not full:
                return
            try:
                accepted, (address, *_) = self._listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # no file descriptor, or no memory for one
                turned_away["kept waiting: too many open files"] += 1
                self._connections.make_room()
                self._loop.remove_reader(self._listening.fileno())
                self._loop.call_later(_PAUSE_SECONDS, self._go_on)
                return
            if full:
                turned_away["beyond the places"] += 1
                _refuse(accepted, _FULL)
                continue
            protocol = self._make()
            connection = cast(Connection, protocol)
            if self._connections.take(connection, address):
                task = self._loop.create_task(self._begin(protocol, accepted))
                self._beginning.add(task)
                task.add_done_callback(self._beginning.discard)
            else:
                turned_away["beyond the places of an address"] += 1
                _refuse(accepted, _FULL_OF_ADDRESS)

    async def _begin(self, protocol: asyncio.Protocol, accepted: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, accepted)
        except OSError:  # it is closed already
            accepted.close()
            self._connections.release(cast(Connection, protocol))


def _refuse(accepted: socket.socket, answer: bytes) -> None:
    with accepted, suppress(OSError):
        accepted.setblocking(False)
        with suppress(BlockingIOError):
            accepted.recv(65_536)  # what is unread when a socket is closed would take the answer with it
        accepted.send(answer)
