"""Whoever holds connections, and how many, the server answers others; it holds no more than it says.

Real processes, each with limits that a user can set.
"""

from __future__ import annotations

import re
import resource
import socket
import time
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.support.served import wait_until
from tests.support.sockets import SEARCH, is_open, read_all, request, status
from tests.support.verb_server import Server, serving

PROXIES = "127.0.0.240/29, 10.0.0.1"
PROXY = 241


@pytest.fixture(scope="module")
def patient(tmp_path_factory) -> Iterator[Server]:
    """A worker with few places, behind proxies at 127.0.0.240 to .247, and no deadline that a test would see."""
    limits = ("--connections", "40", "--per-address", "10", "--request-seconds", "600", "--idle-seconds", "600")
    with serving(tmp_path_factory.mktemp("patient"), "--workers", "1", "--proxy", PROXIES, *limits) as server:
        yield server


@pytest.fixture
def server(patient) -> Iterator[Server]:
    yield patient
    patient.client.close()
    wait_until(lambda: patient.held() == 0)


@pytest.fixture(scope="module")
def hasty(tmp_path_factory) -> Iterator[Server]:
    """One process with deadlines that pass at once."""
    with serving(tmp_path_factory.mktemp("hasty"), "--request-seconds", "0.4", "--idle-seconds", "0.4") as server:
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
    metrics = server.client.answer(request("GET", "/metrics", b"", "connection: close"))[1].decode()
    counted = re.search(r"^mercato_connections_turned_away_total ([0-9.]+)", metrics, re.M)
    assert counted and float(counted[1]) >= 280


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


def test_a_body_that_has_come_has_bought_time(hasty):
    """A second for every 8 kB."""
    connection = hasty.client.connect(request("POST", "/v1/search", b" " * 50_000)[:-25_000])
    began = time.monotonic()
    assert status(read_all(connection)) == 408
    assert time.monotonic() - began > 3


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


def test_with_few_open_files_it_holds_fewer_connections_and_says_so_in_a_line(tmp_path):
    with serving(tmp_path, files=160) as server:
        for host in range(10, 110):
            for _ in range(3):
                server.client.connect(host=host)
        assert server.client.search()[0] == 200
        pid = server.process.pid
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (len(list(server.open_files())) - 5, 160))
        for host in range(10, 60):
            server.client.connect(host=host)
        assert server.client.search()[0] == 200
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (160, 160))
        assert server.client.search()[0] == 200
    said = server.log.read_text()
    assert "the limit of open files (ulimit -n) is 160" in said
    assert len(said) < 2_000


def test_of_a_proxy_the_clients_are_counted(server):
    def asked(forwarded: str, count: int) -> list[socket.socket]:
        begun = request("POST", "/v1/search", SEARCH, f"x-forwarded-for: {forwarded}")[:-1]
        return [server.client.connect(begun, PROXY) for _ in range(count)]

    ten, others = asked("192.0.2.7", 10), asked("192.0.2.8, 10.0.0.1", 10)
    assert server.client.search(PROXY, "x-forwarded-for: 192.0.2.7")[0] == 429
    assert server.client.search(PROXY, "x-forwarded-for: 8.8.8.8, 192.0.2.8:4000, ::ffff:10.0.0.1")[0] == 429
    assert server.client.search(PROXY, "x-forwarded-for: 192.0.2.8, 8.8.8.8")[0] == 200
    assert server.client.search(PROXY)[0] == 200
    assert server.client.search(1, "x-forwarded-for: 192.0.2.7")[0] == 200  # said by nobody who is trusted
    for connection in (*ten, *others):
        connection.sendall(SEARCH[-1:])
        assert connection.recv(12) == b"HTTP/1.1 200"
    assert server.client.search(PROXY, "x-forwarded-for: 192.0.2.7")[0] == 200


def test_large_bodies_that_stall_give_their_places_to_one_that_comes(server):
    body = b'{"query":"red chair","filler":"' + b"a" * 70_000 + b'"}'
    stalled = [server.client.connect(request("POST", "/v1/embed", body)[:-1], 10 + number) for number in range(16)]
    wait_until(lambda: server.client.answer(request("POST", "/v1/embed", body, "connection: close"))[0] == 422)
    answered = [connection for connection in stalled if not is_open(connection)]
    assert answered
