"""`mercato serve` as a process, with any of its settings, over the small market."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import httpx
import pytest

from mercato.catalogue import indexing
from mercato.data.market import Market
from mercato.runs.folder import RETRIEVAL, WEIGHTS
from mercato.serving.server import KEY as KEY_VARIABLE
from tests.support.served import free_port, wait_until
from tests.support.served_run import OnnxEncoder
from tests.support.small_market import KEY, make_market
from tests.support.sockets import Client
from tests.support.workers import workers


def indexed(folder: Path) -> tuple[Path, Market, Path]:
    """A run, a market and its index."""
    run, market = folder / "run", make_market(folder / "market [1]")  # a name that is a pattern, too
    run.mkdir()
    (run / WEIGHTS).write_bytes(b"weights")
    (run / RETRIEVAL).write_text(json.dumps({"min_cosine": None}))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(indexing, "OnnxEncoder", OnnxEncoder)
        indexing.index_market(run, market, str(folder / "index"))
    return run, market, folder / "index"


class Server:
    """A `mercato serve`."""

    def __init__(self, process: subprocess.Popen, client: Client, log: Path) -> None:
        self.process, self.client, self.log = process, client, log

    def held(self) -> int:
        """The connections that the process has open files for."""
        port = f":{self.client.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        connections = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] != "0A"}
        return len(connections & set(self.open_files()))

    def open_files(self) -> Iterator[str]:
        answering = workers(self.process) or [self.process.pid]
        for file in Path(f"/proc/{answering[0]}/fd").iterdir():
            with suppress(OSError):  # it has just been closed
                yield str(file.readlink())


@contextmanager
def serving(folder: Path, *settings: str, files: int | None = None) -> Iterator[Server]:
    run, market, index = indexed(folder)
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "tests.support.served_verb", run, "--market", market.path, "--index", index]
    with log.open("w") as out, ExitStack() as stack:
        process = subprocess.Popen(
            [
                *map(str, command),
                "--port",
                str(port),
                "--open-rate",
                "1000000",
                *settings,
            ],  # all tests have one address
            env=os.environ | {KEY_VARIABLE: KEY},
            stdout=out,
            stderr=out,
            preexec_fn=files and (lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))),
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        client = Client(port)
        stack.callback(client.close)
        wait_until(lambda: process.poll() is not None or is_ready(port))
        assert process.poll() is None, log.read_text()
        yield Server(process, client, log)
        client.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(120) == 0
        assert "Traceback" not in log.read_text(), log.read_text()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False
