"""Floods of what needs no key: memory and disk are bounded, and what was acknowledged is there."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from mercato.data.market import Market
from mercato.serving.services import Settings
from tests.support.chaos import times
from tests.support.sockets import Client, request
from tests.support.verb_server import serving

pytestmark = pytest.mark.chaos

SECONDS = times(3, 60)
CLIENTS = 8  # each from its address


def body(number: int, events: int) -> bytes:
    """Events with all that may be in them, as long as it may be."""
    long = {"user_query": "水" * 512, "query_id": "q" * 256, "client_id": "c" * 256}
    about = {"object": {"object_id": "o" * 256}, "position": {"ordinal": 1}}
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    sent = [
        {
            "action_name": "click",
            "session_id": f"{events}-{number}-{row}",
            "timestamp": now,
            "event_attributes": about,
            **long,
        }
        for row in range(events)
    ]
    return json.dumps({"events": sent}, ensure_ascii=False).encode()


class Flood:
    """Clients that send events as fast as they are answered, each from its own address."""

    def __init__(self, port: int, events: int) -> None:
        self._port, self._events, self._ended = port, events, threading.Event()
        self.statuses: Counter[int] = Counter()
        self.logged: list[int] = []  # bodies that were acknowledged
        self.taken = 0  # bytes of these

    @contextmanager
    def flowing(self) -> Iterator[None]:
        threads = [threading.Thread(target=self._flow, args=(client,)) for client in range(CLIENTS)]
        for thread in threads:
            thread.start()
        yield
        self._ended.set()
        for thread in threads:
            thread.join()

    def _flow(self, number: int) -> None:
        client = Client(self._port)
        while not self._ended.is_set():
            content = body(number, self._events)
            sent = request("POST", "/v1/events", content, "connection: close")
            status, _ = client.answer(sent, host=2 + number % CLIENTS)
            client.opened.clear()
            self.statuses[status] += 1
            if status == 200:
                self.logged.append(number)
                self.taken += len(content)
            number += CLIENTS


def test_floods_of_events_are_bounded_and_stop_no_search(tmp_path, attacked):
    market, of_all, written = tmp_path / "market [1]", Settings().open_event_bytes[1], Counter[str]()
    with serving(tmp_path) as server:
        for events in (1, 30, 320):
            flood, name = Flood(server.client.port, events), f"events, {events} a body"
            with attacked(name, server.client.port, lambda: server.process.pid, [market]) as attack:
                began = time.monotonic()
                with flood.flowing():
                    time.sleep(SECONDS)
                    attack.prober.wait_for_more()
                seconds = time.monotonic() - began
            assert set(flood.statuses) <= {200, 429, 503}
            assert 0 < flood.taken <= of_all * (seconds + 1) + CLIENTS * len(body(0, events))
            before, after = attack.disk_mb
            assert after - before < 2 * flood.taken / 1e6 + 32
            assert attack.memory_mb[1] < attack.memory_mb[0] + 150
            attack.checked = len(flood.logged) * events
            written += Counter(f"{events}-{number}-{row}" for number in flood.logged for row in range(events))
    assert Counter(Market.open(market).frame("events")["session_id"]) == written
