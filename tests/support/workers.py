"""A server with workers as processes of their own, and who speaks to them over HTTP."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

from mercato.serving.server import KEY as KEY_VARIABLE
from tests.support.served import WRITE, ids, wait_until
from tests.support.small_market import KEY

WORKERS = 2


class Client:
    """Asks over a new connection each time, so that any worker may answer."""

    def __init__(self, port: int) -> None:
        self.port = port
        self._client = httpx.Client(
            base_url=f"http://127.0.0.1:{port}",
            timeout=120,
            headers=WRITE,
            limits=httpx.Limits(max_keepalive_connections=0),
        )

    def __call__(self, method: str, path: str, body: object = None) -> httpx.Response:
        return self._client.request(method, path, json=body)

    def ready(self) -> bool:
        try:
            return self("GET", "/readyz").status_code == 200
        except httpx.TransportError:
            return False

    def found(self, query: str, **filters: object) -> list[str]:
        body = {"query": query, "page_size": 5, "filters": filters}
        return ids(self("POST", "/v1/search", body).json())

    def metric(self, name: str) -> float:
        return sum(
            float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self("GET", "/metrics").text, re.M)
        )


@contextmanager
def serving(
    module: str, *arguments: object, client: Client, under: Sequence[str] = (), **environment: str
) -> Iterator[subprocess.Popen]:
    """Run a module of tests that serves with workers until the block ends, or it is killed; nothing in it may raise.

    `under` is a command that becomes the one that follows it.
    """
    command: Sequence[str] = [*under, sys.executable, "-m", module, *map(str, arguments)]
    environment = os.environ | {KEY_VARIABLE: KEY} | environment
    server = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    said: list[str] = []
    reader = threading.Thread(target=lambda: said.extend(server.stderr))
    reader.start()
    try:
        wait_until(lambda: server.poll() is not None or client.ready())
        wait_until(lambda: server.poll() is not None or len(workers(server)) == WORKERS)
        assert server.poll() is None, "".join(said)
        yield server
    finally:
        server.kill()
        server.wait()
        reader.join()
        wait_until(lambda: not client.ready())  # its workers end with it
    assert "Traceback" not in "".join(said)


def workers(server: subprocess.Popen) -> list[int]:
    """The worker processes: children that have children's names of multiprocessing."""
    return children(server, "spawn_main")


def children(server: subprocess.Popen, command: str) -> list[int]:
    """The processes that the server has begun by a command with this in it."""
    found = []
    for begun in Path(f"/proc/{server.pid}/task").glob("*/children"):  # of each of its threads
        with suppress(OSError):  # it has just ended
            for pid in begun.read_text().split():
                with suppress(OSError):
                    if command in Path(f"/proc/{pid}/cmdline").read_text():
                        found.append(int(pid))
    return found
