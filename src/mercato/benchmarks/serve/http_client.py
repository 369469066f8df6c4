"""An HTTP/1.1 client that costs little: over kept connections, one request at a time on each."""

from __future__ import annotations

import asyncio
import re
from collections import deque
from types import TracebackType
from typing import Self, TypeAlias

Address: TypeAlias = tuple[str, int]

CONNECTIONS = 32  # open from the beginning and used in turn, so that they are even between a server's workers
MOST = 256  # open at once; more requests wait for one

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)


class Client:
    """Asks one server, within a block `async with`."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._idle: deque[_Connection] = deque()
        self._free = asyncio.Semaphore(MOST)

    async def __aenter__(self) -> Self:
        self._idle.extend([await self._opened() for _ in range(CONNECTIONS)])
        return self

    async def __aexit__(self, _: type | None, __: BaseException | None, ___: TracebackType | None) -> None:
        for connection in self._idle:
            connection.close()

    async def ask(self, method: str, path: str, body: bytes, key: str = "") -> tuple[int, bytes]:
        """The status and the body of the answer.

        Raises:
            OSError: there is no connection, or it ended before the answer did.
        """
        head = f"{method} {path} HTTP/1.1\r\nhost: {self._address[0]}\r\ncontent-type: application/json\r\n"
        if key:
            head += f"x-api-key: {key}\r\n"
        async with self._free:
            connection = await self._connection()
            try:
                answer = await connection.exchange(f"{head}content-length: {len(body)}\r\n\r\n".encode() + body)
            except BaseException:  # a time-out too: what comes of it later must answer no other request
                connection.close()
                raise
            self._idle.append(connection)
            return answer

    async def _connection(self) -> _Connection:
        while self._idle:
            connection = self._idle.popleft()
            if connection.open:
                return connection
        return await self._opened()

    async def _opened(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(_Connection, *self._address)
        return connection


class _Connection(asyncio.Protocol):
    def __init__(self) -> None:
        self.open = False
        self._received = bytearray()
        self._answer: asyncio.Future[tuple[int, bytes]] | None = None

    async def exchange(self, request: bytes) -> tuple[int, bytes]:
        self._received.clear()
        self._answer = asyncio.get_running_loop().create_future()
        self._transport.write(request)
        return await self._answer

    def close(self) -> None:
        self.open = False
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport, self.open = transport, True

    def data_received(self, data: bytes) -> None:
        self._received += data
        end = self._received.find(b"\r\n\r\n")
        if end < 0 or self._answer is None or self._answer.done():
            return
        length = _LENGTH.search(self._received, 0, end)
        if length is None:
            self._fail(ConnectionError("an answer without content-length"))
        elif len(self._received) >= (whole := end + 4 + int(length[1])):
            if _CLOSE.search(self._received, 0, end):
                self.close()
            self._answer.set_result((int(self._received[9:12]), bytes(self._received[end + 4 : whole])))

    def connection_lost(self, exc: Exception | None) -> None:
        self.open = False
        self._fail(exc or ConnectionError("the connection ended before the answer did"))

    def _fail(self, why: Exception) -> None:
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(why)
