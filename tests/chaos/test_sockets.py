"""A thousand connections that are silent, or slow: they take no place of anybody who asks."""

from __future__ import annotations

import resource
import time
from contextlib import suppress

import pytest

from tests.support.chaos import times
from tests.support.sockets import Client, is_open, request
from tests.support.verb_server import serving

pytestmark = pytest.mark.chaos

SOCKETS = times(600, 1_000)
SECONDS = times(2, 40)
CONNECTIONS = 512  # what a server holds unless it is told otherwise
LARGE = b'{"query":"red chair","filler":"' + b"a" * 60_000
HELD = {  # what is sent at once, and what then, bit by bit
    "idle": (b"", b""),
    "slow headers": (b"POST /v1/search HTTP/1.1\r\nhost: shop\r\nx-a: b", b"b"),
    "stalled bodies": (request("POST", "/v1/search", LARGE + b'"}')[:-100], b"a"),
    "stalled large bodies": (request("POST", "/v1/events", b"[" * 900_000)[:-800_000], b"["),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4_096)), hard))
    with serving(tmp_path_factory.mktemp("sockets")) as server:
        yield server


@pytest.mark.parametrize("kind", HELD)
def test_who_holds_a_thousand_connections_stops_no_search(server, attacked, kind):
    first, then = HELD[kind]
    client, opened, most = Client(server.client.port), 0, 0
    try:
        with attacked(f"{SOCKETS:,} sockets, {kind}", client.port, lambda: server.process.pid) as attack:
            end = time.monotonic() + SECONDS
            while time.monotonic() < end:
                for number in range(len(client.opened), SOCKETS):  # those that were let go come again
                    client.connect(first, host=2 + number % 250)
                    opened += 1
                most = max(most, server.held())
                attack.prober.wait_for_more()
                for connection in client.opened:
                    with suppress(OSError):
                        connection.send(then)
                gone = [connection for connection in client.opened if not is_open(connection)]
                for connection in gone:
                    connection.close()
                client.opened = [connection for connection in client.opened if connection.fileno() >= 0]
                time.sleep(1)
        assert opened > CONNECTIONS >= most
        assert attack.memory_mb[1] < attack.memory_mb[0] + 300
    finally:
        client.close()
