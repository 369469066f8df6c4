"""The server process: a free port, uvicorn, and a graceful shutdown."""

from __future__ import annotations

import errno
import signal
import socket

import uvicorn
from fastapi import FastAPI

from mercato.errors import MercatoError

CONNECTIONS = 512  # beyond them uvicorn answers 503 before it reads anything


def free_port(preferred: int, host: str = "127.0.0.1") -> int:
    """The first free port from `preferred` on, of the next hundred.

    Raises:
        MercatoError: none of them is free, or the host is not one of this machine's.
    """
    try:
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, preferred, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise MercatoError(f"--host: {host} cannot be listened on: {error}") from None
    for port in range(preferred, min(preferred + 100, 65_536)):
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((address, port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                    raise MercatoError(f"--host: {host} cannot be listened on: {error.strerror}") from None
                continue
            return port
    raise MercatoError(f"--port: no port from {preferred} to {preferred + 99} is free on {host}")


def serve(app: FastAPI, host: str, port: int) -> None:
    """Answer requests until SIGINT or SIGTERM; then finish those begun, move the last events and return.

    Call it from the main thread. What the application was given (index, catalogue) is the caller's to close.
    """
    config = uvicorn.Config(
        app,
        host=host,
        port=port,
        access_log=False,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=10,
        limit_concurrency=CONNECTIONS,
    )
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {
        end: signal.signal(end, lambda *_: None) for end in ends
    }  # uvicorn raises its signal again when it is done
    try:
        uvicorn.Server(config).run()
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)
