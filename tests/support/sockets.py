"""Raw sockets to a server, from any of this machine's addresses."""

from __future__ import annotations

import socket
from contextlib import suppress

SEARCH = b'{"query":"red chair"}'


class Client:
    """Connects to a server at a port of 127.0.0.1, from addresses 127.0.0.N, and closes what it opened."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.opened: list[socket.socket] = []

    def connect(self, sent: bytes = b"", host: int = 1, seconds: float = 60) -> socket.socket:
        """A connection over which this was sent; it waits at most so long for the server."""
        address = (f"127.0.0.{host}", 0)
        connection = socket.create_connection(("127.0.0.1", self.port), timeout=seconds, source_address=address)
        self.opened.append(connection)
        with suppress(ConnectionError):  # it is closed already
            connection.sendall(sent)
        return connection

    def answer(self, sent: bytes, host: int = 1) -> tuple[int, bytes]:
        """Send, and read until the server closes: the status of the first answer, and all that came."""
        with self.connect(sent, host) as connection:
            return status(received := read_all(connection)), received

    def search(self, host: int = 1, *fields: str) -> tuple[int, bytes]:
        """Ask for a red chair."""
        return self.answer(request("POST", "/v1/search", SEARCH, "connection: close", *fields), host)

    def close(self) -> None:
        """Close what was opened."""
        for connection in self.opened:
            connection.close()
        self.opened.clear()


def request(method: str, path: str, body: bytes = b"", *fields: str) -> bytes:
    """A request of HTTP/1.1, in bytes."""
    head = [f"{method} {path} HTTP/1.1", "host: shop", "content-type: application/json", *fields]
    if body:
        head.append(f"content-length: {len(body)}")
    return "\r\n".join([*head, "", ""]).encode() + body


def status(received: bytes) -> int:
    """That of an answer; 0: there was none."""
    return int(received[9:12]) if received.startswith(b"HTTP/1.1 ") else 0


def read_all(connection: socket.socket) -> bytes:
    """What comes until the server closes."""
    received = b""
    with suppress(ConnectionError):
        while part := connection.recv(65_536):
            received += part
    return received


def is_open(connection: socket.socket) -> bool:
    """Whether the server still holds it; what it has sent is read."""
    connection.setblocking(False)
    try:
        while connection.recv(65_536):
            pass
    except BlockingIOError:
        return True
    except ConnectionError:
        pass
    return False
