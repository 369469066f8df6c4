"""Whoever holds connections, and how many, the server answers others; it holds no more than it says.

Real processes, each with limits that a user can set.
"""

from __future__ import annotations

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

from mercato.serving.server import KEY as KEY_VARIABLE
from tests.serving.test_workers import indexed
from tests.support.served import free_port, wait_until
from tests.support.small_market import KEY
from tests.support.sockets import Client, is_open, read_all, request, status

PATIENT = ("--request-seconds", "600", "--idle-seconds", "600")
HASTY = ("--request-seconds", "0.4", "--idle-seconds", "0.4")
MEGABYTE = 1_000_000


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    return indexed(tmp_path_factory.mktemp("connections"))


class Server:
    """A `mercato serve`."""

    def __init__(self, process: subprocess.Popen, client: Client, log: Path) -> None:
        self.process, self.client, self.log = process, client, log

    def held(self) -> int:
        """The connections that the process has open files for."""
        port = f":{self.client.port:04X}"
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        connections = {f"socket:[{row[9]}]" for row in rows if row[1].endswith(port) and row[3] != "0A"}
        return len(connections & set(self._open_files()))

    def _open_files(self) -> Iterator[str]:
        for file in Path(f"/proc/{self.process.pid}/fd").iterdir():
            with suppress(OSError):  # it has just been closed
                yield str(file.readlink())


@contextmanager
def serving(made, folder: Path, *settings: str, files: int | None = None) -> Iterator[Server]:
    run, market, index = made
    port, log = free_port(), folder / "log"
    command = [sys.executable, "-m", "tests.support.served_verb", run, "--market", market.path, "--index", index]
    limit = None if files is None else lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    with log.open("w") as out, ExitStack() as stack:
        process = subprocess.Popen(
            [*map(str, command), "--port", str(port), *settings],
            env=os.environ | {KEY_VARIABLE: KEY},
            stdout=out,
            stderr=out,
            preexec_fn=limit,
        )
        stack.callback(process.wait)
        stack.callback(process.send_signal, signal.SIGTERM)
        client = Client(port)
        stack.callback(client.close)
        wait_until(lambda: process.poll() is not None or is_ready(port))
        assert process.poll() is None, log.read_text()
        yield Server(process, client, log)
        client.close()
        assert "Traceback" not in log.read_text()


def is_ready(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


@pytest.fixture(scope="module")
def patient(made, tmp_path_factory) -> Iterator[Server]:
    """Without a deadline that a test would see."""
    limits = ("--connections", "40", "--per-address", "10", *PATIENT)
    with serving(made, tmp_path_factory.mktemp("patient"), *limits) as server:
        yield server


@pytest.fixture
def server(patient) -> Iterator[Server]:
    yield patient
    patient.client.close()
    wait_until(lambda: patient.held() == 0)


@pytest.fixture(scope="module")
def hasty(made, tmp_path_factory) -> Iterator[Server]:
    with serving(made, tmp_path_factory.mktemp("hasty"), *HASTY) as server:
        yield server


HELD = {
    "silent": b"",
    "half a head": b"POST /v1/search HTTP/1.1\r\nhost: shop\r\nx-a: b",
    "half a body": request("POST", "/v1/search", b"{" * 100)[:-50],
    "idle": request("GET", "/healthz", b"", "user-agent: one that reads no answer"),
}


@pytest.mark.parametrize("sent", HELD.values(), ids=HELD)
def test_who_holds_connections_has_no_more_than_an_address_may_and_stops_nobody(server, sent):
    held = [server.client.connect(sent, host=2) for _ in range(100)]
    assert server.client.search()[0] == 200
    wait_until(lambda: server.held() == 10)
    assert server.client.search(host=2)[0] == 200  # an office that leaves connections open has an answer too
    assert not any(map(is_open, held[:91]))


def test_who_holds_connections_from_many_addresses_stops_nobody_and_has_no_more_than_there_are(server):
    counts = []
    for sent in HELD.values():
        for host in range(10, 90):
            server.client.connect(sent, host)
            if host % 10 == 0:
                counts.append(server.held())
        assert [server.client.search(host)[0] for host in (1, 50, 200)] == [200, 200, 200]
    assert max(counts) <= 40
    server.client.connect(host=3)
    wait_until(lambda: server.held() == 40)


def test_who_takes_too_long_is_let_go(hasty):
    client = hasty.client
    assert read_all(client.connect()) == b""
    assert status(read_all(client.connect(HELD["half a head"]))) == 408
    assert status(read_all(client.connect(HELD["half a body"]))) == 408
    assert read_all(client.connect(request("GET", "/healthz"))).endswith(b'{"status":"ok"}')


@pytest.mark.parametrize("begun", ["half a head", "half a body", "answered"])
def test_who_sends_a_byte_now_and_then_is_let_go(hasty, begun):
    sent = HELD.get(begun) or request("POST", "/v1/products", b"{" * 100)[:-50]  # refused before its body is there
    connection = hasty.client.connect(sent, seconds=0.05)

    def dripped() -> bool:
        with suppress(TimeoutError, ConnectionError):
            connection.send(b" ")
        return not is_open(connection)

    wait_until(dripped)


def test_who_does_not_read_is_let_go(hasty):
    connection = hasty.client.connect(request("GET", "/openapi.json") * 10, seconds=0.05)
    with suppress(TimeoutError):
        while True:
            connection.sendall(request("GET", "/openapi.json") * 10)
    wait_until(lambda: hasty.held() == 0)


def test_a_body_that_comes_at_a_rate_has_more_time(hasty):
    """A second for every 8 kB."""
    body = b"%-40000d" % 1
    connection = hasty.client.connect(request("POST", "/v1/search", body)[:-20_000])
    began = os.times().elapsed
    assert status(read_all(connection)) == 408
    assert os.times().elapsed - began > 2


def test_a_head_is_bounded(hasty):
    def field(size: int) -> str:
        return "x-a: " + "a" * size

    assert hasty.client.search(1, field(60_000))[0] == 200
    assert hasty.client.search(1, field(66_000))[0] == 431
    endless = hasty.client.connect(b"GET / HTTP/1.1\r\nhost: shop\r\nx-a: ")
    with suppress(ConnectionError):
        for _ in range(100):
            endless.sendall(b"a" * 10_000)
    assert status(read_all(endless)) in (0, 431)
    assert not is_open(endless)
