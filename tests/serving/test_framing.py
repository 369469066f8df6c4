"""What two servers may read as two things is refused by both: by this one, and the connection closed."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mercato.serving import process
from mercato.serving.connections import Limits
from tests.support.sockets import SEARCH, Client, read_all, request, status

LIMITS = Limits(request_seconds=600, idle_seconds=600)  # longer than a test waits
HEAD = b"POST /v1/search HTTP/1.1\r\nHost: shop\r\nContent-Type: application/json\r\n"
LENGTH = b"%d" % len(SEARCH)
CHUNKS = b"%x\r\n%s\r\n0\r\n\r\n" % (len(SEARCH), SEARCH)
SMUGGLED = b"GET /metrics HTTP/1.1\r\nHost: shop\r\n\r\n"


def with_fields(*fields: bytes, body: bytes = SEARCH) -> bytes:
    return HEAD + b"".join(field + b"\r\n" for field in fields) + b"\r\n" + body


def in_chunks(body: bytes, *fields: bytes) -> bytes:
    return with_fields(b"Transfer-Encoding: chunked", *fields, body=body)


REFUSED = {
    "a length and chunks": in_chunks(CHUNKS, b"Content-Length: 4"),
    "chunks behind a length": with_fields(b"Content-Length: " + LENGTH, b"Transfer-Encoding: chunked", body=CHUNKS),
    "two lengths": with_fields(b"Content-Length: " + LENGTH, b"Content-Length: 5"),
    "one length twice": with_fields(b"Content-Length: " + LENGTH, b"Content-Length: " + LENGTH),
    "a list of lengths": with_fields(b"Content-Length: " + LENGTH + b", " + LENGTH),
    "a length with a sign": with_fields(b"Content-Length: +" + LENGTH),
    "a length in hexadecimal": with_fields(b"Content-Length: 0x15"),
    "an empty length": with_fields(b"Content-Length: "),
    "a length beyond 64 bits": with_fields(b"Content-Length: 18446744073709551637"),
    "a space before the colon": with_fields(b"Content-Length : " + LENGTH),
    "another encoding": with_fields(b"Transfer-Encoding: xchunked", body=CHUNKS),
    "chunks not last": with_fields(b"Transfer-Encoding: chunked, identity", body=CHUNKS),
    "two encodings": with_fields(b"Transfer-Encoding: gzip, chunked", body=CHUNKS),
    "chunked twice": in_chunks(CHUNKS, b"Transfer-Encoding: chunked"),
    "an encoding behind a tab": with_fields(b"Transfer-Encoding: \x0bchunked", body=CHUNKS),
    "chunks of HTTP/1.0": in_chunks(CHUNKS).replace(b"HTTP/1.1", b"HTTP/1.0"),
    "a folded field": with_fields(b"Transfer-Encoding:\r\n chunked", body=CHUNKS),
    "a line feed alone": with_fields(b"X: a\nContent-Length: 5", b"Content-Length: " + LENGTH),
    "a carriage return alone": with_fields(b"X: a\rContent-Length: 5", b"Content-Length: " + LENGTH),
    "a NUL": with_fields(b"X: a\0b", b"Content-Length: " + LENGTH),
    "a line without a colon": with_fields(b"X", b"Content-Length: " + LENGTH),
    "a chunk's length in C": in_chunks(b"0x" + CHUNKS),
    "a chunk's length below 0": in_chunks(b"-" + CHUNKS),
    "a chunk's length beyond 64 bits": in_chunks(b"1" + b"0" * 16 + CHUNKS),
    "a chunk longer than it says": in_chunks(CHUNKS.replace(b"}\r\n", b"}XX")),
    "chunks' lines ended by a line feed": in_chunks(CHUNKS.replace(b"\r\n", b"\n")),
    "a line feed in a chunk's extension": in_chunks(CHUNKS.replace(b"\r\n", b";\n", 1)),
    "no host": with_fields(b"Content-Length: " + LENGTH).replace(b"Host: shop\r\n", b""),
    "two hosts": with_fields(b"Host: other", b"Content-Length: " + LENGTH),
    "another protocol": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "another version": with_fields(b"Content-Length: " + LENGTH).replace(b"HTTP/1.1", b"HTTP/2.0"),
    "a tunnel": b"CONNECT shop:80 HTTP/1.1\r\nHost: shop\r\n\r\n",
    "a body beside an upgrade": with_fields(b"Upgrade: h2c", b"Connection: upgrade", b"Content-Length: " + LENGTH),
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00",
}


@pytest.fixture
def client(start) -> Iterator[Client]:
    with serving(start().app) as client:
        yield client


@contextmanager
def serving(app: object) -> Iterator[Client]:
    with process.listen(8300) as listening:
        config = process._Config(app, LIMITS, lifespan="off")  # the test's client has begun it
        server = process.uvicorn.Server(config)
        serving = threading.Thread(target=server.run, args=[[listening]], daemon=True)
        serving.start()
        client = Client(listening.getsockname()[1])
        yield client
        client.close()
        server.should_exit = True
        serving.join()


def statuses(received: bytes) -> list[int]:
    return [int(each) for each in re.findall(rb"HTTP/1.1 (\d+) ", received)]


def test_a_request_whose_end_is_doubtful_is_refused_and_nothing_behind_it_read(client):
    for what, sent in REFUSED.items():
        assert statuses(read_all(client.connect(sent + SMUGGLED))) == [400], what
    assert client.search()[0] == 200


def test_what_is_right_is_answered(client):
    right = with_fields(b"Content-Length: " + LENGTH)
    trailer = in_chunks(CHUNKS[:-2] + b"X-Api-Key: a\r\n\r\n")
    last = request("GET", "/healthz", b"", "connection: close")
    assert statuses(read_all(client.connect(right + in_chunks(CHUNKS) + trailer + right + last))) == [200] * 5


def test_a_field_behind_the_body_is_dropped():
    async def names_of_fields(scope, receive, send):
        while (await receive())["more_body"]:
            pass
        names = b" ".join(name for name, _ in scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": names})

    with serving(names_of_fields) as client:
        connection = client.connect(in_chunks(CHUNKS[:-2], b"Connection: close"))
        connection.sendall(b"X-Api-Key: a\r\n\r\n")
        assert b"host content-type transfer-encoding connection\r\n" in read_all(connection)


def test_an_upgrade_is_not_made_and_what_comes_behind_it_not_read(client):
    upgrade = request("GET", "/healthz", b"", "connection: upgrade", "upgrade: websocket")
    connection = client.connect(upgrade)
    connection.sendall(SMUGGLED)
    assert statuses(read_all(connection)) == [200]


def test_who_goes_away_leaves_no_traceback(client, caplog):
    ask = request("POST", "/v1/search", SEARCH)
    for _ in range(20):
        client.connect(ask * 5)
        client.close()
    assert client.search()[0] == 200
    assert not [record for record in caplog.records if record.name.startswith("uvicorn")]


def test_behind_a_request_under_way_a_doubtful_one_closes_without_an_answer_that_would_be_taken_for_its(client):
    assert status(read_all(client.connect(with_fields(b"Content-Length: " + LENGTH) + REFUSED["two lengths"]))) != 400
