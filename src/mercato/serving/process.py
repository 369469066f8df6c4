"""The server's processes: one listening socket, uvicorn, a graceful end; and several workers beside one another."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import shutil
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from threading import Thread
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess

from mercato.errors import MercatoError
from mercato.serving.accept import Loop
from mercato.serving.connections import Limits
from mercato.serving.garbage import set_apart
from mercato.serving.prometheus import FOLDER
from mercato.serving.protocol import BoundedProtocol

log = logging.getLogger("mercato.serving")

_AGAIN_SECONDS = 5.0  # until a worker that could not take another's place is tried again
_BACKLOG = 1024  # connections that wait to be accepted


def listen(preferred: int, host: str = "127.0.0.1") -> socket.socket:
    """A socket that listens at the first free port from `preferred` on, of the next hundred.

    Raises:
        MercatoError: none of them is free, or the host is not one of this machine's.
    """
    try:
        family, _, _, _, (address, *_) = socket.getaddrinfo(host, preferred, type=socket.SOCK_STREAM)[0]
    except (socket.gaierror, UnicodeError) as error:
        raise MercatoError(f"--host: {host} cannot be listened on: {error}") from None
    for port in range(preferred, min(preferred + 100, 65_536)):
        listening = socket.socket(family)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((address, port))
            listening.listen(_BACKLOG)  # bound is not enough: another process could bind it too
        except OSError as error:
            listening.close()
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise MercatoError(f"--host: {host} cannot be listened on: {error.strerror}") from None
            continue
        return listening
    raise MercatoError(f"--port: no port from {preferred} to {preferred + 99} is free on {host}")


def serve(app: FastAPI, listening: socket.socket, limits: Limits) -> None:
    """Answer requests until SIGINT or SIGTERM; then finish those begun and return. Call it from the main thread."""
    with _signals_kept():
        set_apart()
        uvicorn.Server(_Config(app, limits)).run([listening])


def serve_with_workers(
    app: Callable[[], FastAPI], listening: socket.socket, limits: Limits, workers: int, counts: Path
) -> None:
    """As `serve`, with as many processes, each with an application of its own, made there by `app` (it is pickled).

    One that dies is started anew, and again after a while where that fails; none outlives this process. The folder
    `counts` is theirs as long as they live.

    Raises:
        MercatoError: no worker has started, and one could not.
    """
    shutil.rmtree(counts, ignore_errors=True)  # a killed server's
    counts.mkdir(parents=True)
    with _signals_kept():
        os.environ[FOLDER] = str(counts)
        try:
            supervisor = _Supervisor(_Config(_Worker(app), limits, factory=True, workers=workers), [listening])
            supervisor.run()
        finally:
            del os.environ[FOLDER]
            shutil.rmtree(counts, ignore_errors=True)
    if any(worker.exitcode == STARTUP_FAILURE for worker in supervisor.processes):
        raise MercatoError("a worker could not start: why stands above")


class _Supervisor(Multiprocess):
    """Uvicorn's, which holds the workers' end of its pipes too: one that dies while it is asked is waited for."""

    def keep_subprocess_alive(self) -> None:
        for worker in self.processes:
            worker.child_conn.close()  # it has its own by now
        super().keep_subprocess_alive()


class _Worker:
    """Makes the application of a worker process."""

    def __init__(self, app: Callable[[], FastAPI]) -> None:
        self._app = app

    def __call__(self) -> FastAPI:
        Thread(target=_end_with_parent, name="parent", daemon=True).start()
        started = Path(os.environ[FOLDER]) / "started"
        try:
            app = self._app()
        except Exception as error:
            if isinstance(error, MercatoError):
                log.error("a worker could not start: %s", error)
            else:
                log.exception("a worker could not start")
            if not started.exists():
                sys.exit(STARTUP_FAILURE)  # another one would fare no better
            time.sleep(_AGAIN_SECONDS)  # the others go on meanwhile
            sys.exit(1)
        started.touch()
        set_apart()
        return app


def _end_with_parent() -> None:
    """A killed server's port and market are free at once for the next; what was acknowledged is on disk."""
    if parent := multiprocessing.parent_process():
        parent.join()
        os._exit(1)


class _Config(uvicorn.Config):
    """Uvicorn's, for the loop and the protocol that keep the limits."""

    def __init__(self, app: Any, limits: Limits, **workers: Any) -> None:
        super().__init__(
            app,
            http=BoundedProtocol,
            ws="none",
            access_log=False,
            log_level="warning",
            server_header=False,
            proxy_headers=False,  # uvicorn would believe whoever asks from this machine
            backlog=_BACKLOG,
            timeout_keep_alive=limits.idle_seconds,  # type: ignore[arg-type]  # any number will do
            timeout_graceful_shutdown=10,
            timeout_worker_healthcheck=30,  # one that starts on a busy machine does not answer either
            **workers,
        )
        self._limits = limits

    def get_loop_factory(self) -> Callable[[], Loop]:
        """A worker makes its own."""
        return partial(Loop, self._limits)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Uvicorn raises its signal again when it is done: here that ends nothing, and the handlers come back."""
    ends = (signal.SIGINT, signal.SIGTERM)
    before = {end: signal.signal(end, lambda *_: None) for end in ends}
    try:
        yield
    finally:
        for end, handler in before.items():
            signal.signal(end, handler)
