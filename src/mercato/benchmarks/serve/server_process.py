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

from mercato.benchmarks.serve.http_client import Address
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.serving.server import KEY

_PORT = 8400  # the first that is tried
_PAUSE_S = 0.01  # between two looks
_MEGABYTE = 1000  # kB


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
        """Megabytes of the process and all under it; None where the system does not tell (it is Linux that does).

        `rss_mb` counts memory that several processes share once for each, `pss_mb` once in all, memory-mapped files
        included as far as they are in memory; of that, `pss_anonymous_mb` is what no file backs.
        """
        if not Path("/proc/self/smaps_rollup").is_file():
            return None
        totals = dict.fromkeys(("Rss", "Pss", "Pss_Anon"), 0)
        for pid in _tree(self.pid):
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            for name in totals:
                totals[name] += int(re.search(rf"^{name}: +(\d+) kB$", rollup, re.MULTILINE)[1])  # type: ignore[index]
        return {
            "rss_mb": round(totals["Rss"] / _MEGABYTE, 1),
            "pss_mb": round(totals["Pss"] / _MEGABYTE, 1),
            "pss_anonymous_mb": round(totals["Pss_Anon"] / _MEGABYTE, 1),
        }


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
    command += ["--port", str(_PORT), "--workers", str(workers), "--open-rate", "1000000"]  # the load has one address
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


def _tree(root: int) -> list[int]:
    """A process and all under it."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:  # it has ended
            continue
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found
