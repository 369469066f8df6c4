"""A server as a user starts it: `mercato serve` in a process of its own, how long it takes to begin, what it weighs."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from mercato.benchmarks.serve.http_client import MOST, Address
from mercato.benchmarks.serve.processes import memory, tree
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.serving.server import KEY

_PORT = 8400  # the first that is tried
_PAUSE_S = 0.01  # between two looks


@dataclass(frozen=True)
class Server:
    """A server that is ready."""

    pid: int
    address: Address
    key: str  # for writes
    start_s: float  # from its process's beginning until `/readyz` answered 200

    def search(self, body: dict[str, Any]) -> bytes:
        """The answer to one search, as it came."""
        address = f"http://{self.address[0]}:{self.address[1]}/v1/search"
        request = urllib.request.Request(address, orjson.dumps(body), {"content-type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            content: bytes = answer.read()
        return content

    def memory(self) -> dict[str, float] | None:
        """That of the process and all under it, see `processes.memory`."""
        return memory(tree(self.pid))


@contextmanager
def server(run: Path, market: Market, index: Path, workers: int, log: Path) -> Iterator[Server]:
    """A server that is ready, until the block ends; what it says goes to `log`.

    Raises:
        MercatoError: it ended before it was ready.
    """
    command: list[str | Path] = [
        sys.executable,
        "-m",
        "mercato.cli",
        "--quiet",
        "serve",
        run,
        "--market",
        market.path,
        "--index",
        index,
    ]
    # The generator has one address.
    command += ["--port", str(_PORT), "--workers", str(workers), "--per-address", str(MOST), "--open-rate", "1000000"]
    key = secrets.token_urlsafe(24)
    with log.open("w") as out:
        start = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=out, env=os.environ | {KEY: key})
    try:
        while (address := _ready(log)) is None:
            if process.poll() is not None:
                raise MercatoError(f"the server ended before it was ready: {log.read_text().strip()[-1000:]}")
            time.sleep(_PAUSE_S)
        yield Server(process.pid, address, key, time.perf_counter() - start)
    finally:
        process.terminate()
        process.wait()


def _ready(log: Path) -> Address | None:
    said = re.search(r"http://([\d.]+):(\d+)/", log.read_text())
    if said is None:
        return None
    try:
        with urllib.request.urlopen(f"{said[0]}readyz", timeout=10):
            return said[1], int(said[2])
    except (urllib.error.URLError, OSError):
        return None
