"""What is acknowledged survives `kill -9` at once, in a real process over real HTTP."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing, contextmanager

import httpx

from mercato.catalogue.log_mover import LogMover
from mercato.catalogue.products import StoredProduct
from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import IngestionWorker, Target
from mercato.data.schema import PRODUCTS
from mercato.retrieval.engines.qdrant_edge.index import EdgeIndex
from mercato.retrieval.open import build_index, open_index
from tests.support.served import WRITE, event, free_port, ids, server, wait_until
from tests.support.small_market import TrigramEncoder, index_table, products

SCRIPT = "tests.support.served_process"


@contextmanager
def process(market, *faults):
    port = free_port()
    running = subprocess.Popen([sys.executable, "-m", SCRIPT, str(market.path), str(port), *faults])
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=120) as client:
            wait_until(lambda: answers(client))
            yield running, client
    finally:
        running.kill()
        running.wait()


def answers(client) -> bool:
    try:
        return client.get("/readyz").status_code == 200
    except httpx.TransportError:
        return False


def kill(running) -> None:
    running.send_signal(signal.SIGKILL)
    assert running.wait() == -signal.SIGKILL


def titles_found(client, query) -> set[str]:
    return set(ids(client.post("/v1/search", json={"query": query, "page_size": 5}).json()))


def test_writes_survive_a_kill_right_after_their_answer(market):
    events = [event(session_id=f"s{number}") for number in range(20)]
    new = [{"product_id": f"n{number}", "title": f"orange hammock {number}"} for number in range(40)]
    with process(market) as (running, client):
        assert client.post("/v1/events", json={"events": events[:10]}).status_code == 200
        assert client.delete("/v1/products/p00", headers=WRITE).status_code == 200
        assert client.post("/v1/products", json={"products": new}, headers=WRITE).status_code == 200
        assert client.post("/v1/events", json={"events": events[10:]}).status_code == 200
        kill(running)
    with process(market) as (running, client):
        assert client.get("/v1/products/n39").json()["title"] == "orange hammock 39"
        assert client.get("/v1/products/p00").status_code == 404
        wait_until(lambda: "mercato_outbox_depth 0.0" in client.get("/metrics").text)
        for number in (0, 20, 39):
            assert f"n{number}" in titles_found(client, f"orange hammock {number}")
        assert "p00" not in titles_found(client, "red chair")
        running.send_signal(signal.SIGTERM)  # a good end moves the events
        assert running.wait(120) == 0
    assert Counter(market.frame("events")["session_id"]) == Counter(row["session_id"] for row in events)


def test_events_are_in_the_table_once_when_killed_between_file_and_drop(market):
    with process(market, "die-before-drop") as (running, client):
        assert client.post("/v1/events", json={"events": [event(session_id="a"), event(session_id="b")]}).is_success
        assert running.wait(120) == -signal.SIGKILL
    assert len(market.files("events")) == 1
    with process(market) as (running, client):
        assert client.post("/v1/events", json={"events": [event(session_id="c")]}).is_success
        running.send_signal(signal.SIGTERM)
        assert running.wait(120) == 0
    assert sorted(market.frame("events")["session_id"]) == ["a", "b", "c"]


def test_a_new_catalogue_does_not_take_old_files_for_its_own(tmp_path):
    for name in ("one", "two"):
        catalogue = Catalogue.open(tmp_path / f"{name}.sqlite")
        mover = LogMover(catalogue, tmp_path, "events")
        row = {"timestamp": "2024-06-01T10:00:00+00:00", "session_id": name, "action_name": "click"}
        catalogue.events.append([row, row, row])
        mover.recover()
        assert LogMover(catalogue, tmp_path, "events", rows_per_file=2).move() == 2
        assert mover.move() == 1 and mover.move() == 0
        catalogue.close()
    assert len(list((tmp_path / "events").glob("*.parquet"))) == 4


def test_a_new_index_gets_what_the_api_wrote(market):
    new = {"products": [{"product_id": "n", "title": "orange hammock"}]}
    with server(market) as client:
        client.post("/v1/products", json=new, headers=WRITE)
        client.delete("/v1/products/p00", headers=WRITE)
        wait_until(lambda: "n" in titles_found(client, "orange hammock"))
    index_table(market.path, products(), "another")  # knows the table only
    with server(market) as client:
        wait_until(lambda: "n" in titles_found(client, "orange hammock"))
        wait_until(lambda: client.post("/v1/search", json={"query": "x"}).json()["total"] == 48)  # + n − p00


def test_the_index_is_compacted_when_enough_was_written_in_whichever_life(market, monkeypatch):
    sizes, compact = [], EdgeIndex.compact
    monkeypatch.setattr(EdgeIndex, "compact", lambda self: sizes.append(len(self)) or compact(self))
    blank = dict.fromkeys(name for name in PRODUCTS.names if name not in ("images", "image_embeddings"))
    with closing(Catalogue.open(market.path / "c.sqlite")) as catalogue:
        for number in range(5):
            with open_index(market.path / "index") as index:
                targets = [Target(TrigramEncoder(), index)]
                ingestion = IngestionWorker(catalogue, targets, market.path, "w", compact_after=2)
                catalogue.products.upsert([StoredProduct(blank | {"product_id": f"n{number}", "title": "t"})])
                ingestion.drain()
                assert catalogue.outbox.depth() == 1  # until it is on the index's disk
                ingestion.settle()
                assert catalogue.outbox.depth() == 0
                ingestion.compact()
    assert sizes == [50, 52]


def test_a_compaction_that_fails_keeps_no_other_index_from_its_own(market, tmp_path, monkeypatch):
    def fails():
        tried.append("one")
        raise OSError("no space left")

    tried = []
    build_index(tmp_path / "two", [], TrigramEncoder.dimension, "two")
    with (
        closing(Catalogue.open(market.path / "c.sqlite")) as catalogue,
        open_index(market.path / "index") as one,
        open_index(tmp_path / "two") as two,
    ):
        one.compact, two.compact = fails, lambda: tried.append("two")
        targets = [Target(TrigramEncoder(), index) for index in (one, two)]
        ingestion = IngestionWorker(catalogue, targets, market.path, "w", compact_after=1)
        blank = dict.fromkeys(name for name in PRODUCTS.names if name not in ("images", "image_embeddings"))
        catalogue.products.upsert([StoredProduct(blank | {"product_id": "n", "title": "t"})])
        ingestion.drain()
        ingestion.compact()
        ingestion.compact()
    assert tried == ["one", "two"], "and it is not tried again at once"


def test_upserts_become_searchable_one_by_one(start):
    client = start()
    for number in range(25):
        title = f"turquoise gramophone {number}"
        client.post("/v1/products", json={"products": [{"product_id": f"n{number}", "title": title}]}, headers=WRITE)
        wait_until(lambda title=title, number=number: f"n{number}" in titles_found(client, title))
