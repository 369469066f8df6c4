"""The server process: a free port, uvicorn, and a stop that finishes what was begun."""

from __future__ import annotations

import signal
import socket

import uvicorn
from fastapi import FastAPI

from mercato.errors import MercatoError


def free_port(preferred: int, host: str = "127.0.0.1") -> int:
    """The first free port from `preferred` on, of the next hundred.

    Raises:
        MercatoError: none of them is free.
    """
    for port in range(preferred, min(preferred + 100, 65_536)):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
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
