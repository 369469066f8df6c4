"""The load generator against servers that a test can see through."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Lock, Thread

from mercato.benchmarks.serve.load import Request, closed_loop, in_another_process, open_loop, own_rate

Answer = tuple[int, dict]  # a status, 0 for none and the connection's end; a body


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256  # the generator opens its connections at once


@contextmanager
def answering(answer: Callable[[str, dict, str], Answer]) -> Iterator[tuple[str, int]]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            status, content = answer(self.path, body, self.headers.get("x-api-key", ""))
            if not status:
                self.close_connection = True
                return
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_address
        server.shutdown()


def search(at: float = 0.0, **more) -> Request:
    return Request(kind=("search",), body={"query": "red chair"}, at=at, **more)


def test_an_open_loop_counts_from_when_a_request_was_due():
    busy = Lock()

    def slowly(*_: object) -> Answer:
        with busy:  # one at a time
            time.sleep(0.05)
        return 200, {}

    plan = [search(at=0.01 * number) for number in range(12)]
    with answering(slowly) as address:
        outcomes = open_loop(address, plan)
        alone, took = closed_loop(address, plan, 1, 60.0)
    # Requests come five times as fast as they are answered, so each queues longer than the one before: the last to be
    # answered has waited for twelve answers less the time until it was due.
    waited = sorted(outcome.seconds + request.at for outcome, request in zip(outcomes, plan, strict=True))
    assert all(seconds >= 0.05 * (place + 1) for place, seconds in enumerate(waited))
    assert max(outcome.seconds for outcome in outcomes) >= 0.05 * 12 - 0.11
    # Whoever waits for each answer before the next request sees nothing of that.
    assert len(alone) == 12 and took >= 0.6
    assert sorted(outcome.seconds for outcome in alone)[6] < max(outcome.seconds for outcome in outcomes)


def test_a_server_that_stands_still_delays_all_that_was_due_meanwhile():
    stands, begun = Lock(), []

    def once(*_: object) -> Answer:
        with stands:
            if not begun:
                begun.append(True)
                time.sleep(0.5)
        return 200, {}

    plan = [search(at=0.02 * number) for number in range(10)]
    with answering(once) as address:
        outcomes = open_loop(address, plan)
    assert all(each.seconds + request.at >= 0.5 for each, request in zip(outcomes, plan, strict=True))


def test_every_request_is_accounted_for():
    statuses = iter([200, 503, 500, 200, 503, 200])
    guard = Lock()

    def varied(*_: object) -> Answer:
        with guard:
            return next(statuses), {"total": 7}

    with answering(varied) as address:
        outcomes = open_loop(address, [search() for _ in range(6)])
    assert sorted(each.answer for each in outcomes) == ["answered"] * 3 + ["failed"] + ["refused"] * 2
    assert {each.total for each in outcomes if each.answer == "answered"} == {7}


def test_a_closed_loop_ends_with_its_time_but_asks_fifty_times():
    with answering(lambda *_: (200, {})) as address:
        outcomes, _ = closed_loop(address, [search() for _ in range(500)], 4, 0.0)
    assert 50 <= len(outcomes) <= 53


def test_a_request_whose_connection_ends_has_failed():
    with answering(lambda *_: (0, {})) as address:
        outcomes, _ = closed_loop(address, [search() for _ in range(3)], 2, 60.0)
    assert [each.answer for each in outcomes] == ["failed"] * 3


def test_pages_go_on_with_the_cursor_of_the_page_before_and_end_with_it():
    seen = []

    def paging(_: str, body: dict, __: str) -> Answer:
        seen.append(body.get("cursor"))
        following = {None: "second", "second": None}[body.get("cursor")]
        return 200, {"cursor": following}

    plan = [search(), search(follows=0), search(follows=1), search()]
    with answering(paging) as address:
        outcomes = open_loop(address, plan)
    assert sorted(map(str, seen)) == ["None", "None", "second"]
    assert [each.answer for each in outcomes] == ["answered", "answered", "no page", "answered"]


def test_a_write_carries_the_key_and_is_looked_for_until_it_is_found():
    looks = []

    def catalogue(path: str, body: dict, key: str) -> Answer:
        if path == "/v1/products":
            return (200, {"accepted": 1}) if key == "secret" else (401, {})
        looks.append(body)
        return 200, {"hits": [1] if len(looks) == 3 else []}

    write = {"path": "/v1/products", "probe": {"query": "w1"}}
    with answering(catalogue) as address:
        (kept,) = open_loop(address, [search(key="secret", **write)])
        (refused,) = open_loop(address, [search(**write)])
    assert kept.found is not None and kept.found >= 0.1 and looks == [{"query": "w1"}] * 3
    assert refused.answer == "failed" and refused.found is None


def test_plans_go_beside_each_other_in_another_process():
    with answering(lambda *_: (200, {})) as address:
        outcomes = in_another_process(open_loop, address, [search() for _ in range(3)], [search(at=0.1)])
    assert [each.answer for each in outcomes] == ["answered"] * 4


def test_the_generators_own_rate_is_measured():
    assert own_rate(b'{"total": 3}', [search() for _ in range(50)], 4, 60.0) > 0
