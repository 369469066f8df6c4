"""A server whose disk runs full, and has room again."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest
import sqlalchemy as sa

from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import IngestionWorker, Target
from mercato.disk import Disk, bytes_in
from mercato.errors import FullError, MercatoError
from mercato.retrieval.engines.qdrant_edge import build, shard
from mercato.retrieval.engines.qdrant_edge import index as embedded
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.protocol import record_from_product
from mercato.serving import routes
from mercato.serving.prometheus import FOLDER, Metrics
from tests.support.served import WRITE, event, ids, search, server, wait_until
from tests.support.small_market import TrigramEncoder, products


class Filled(Disk):
    """One that the test fills and empties."""

    full = False

    def has_room(self, size=0):
        return not self.full


def post(client, name="n"):
    body = {"products": [{"product_id": name, "title": "zweihander sword"}]}
    return client.post("/v1/products", json=body, headers=WRITE)


def test_a_full_disk_refuses_writes_and_searches_go_on_until_there_is_room_again(market):
    disk = Filled(market.path)
    with server(market, disks=(Disk(market.path, 0), disk)) as client:
        assert client.get("/readyz").status_code == 200
        disk.full = True
        for answer in (post(client), client.post("/v1/events", json={"events": [event()]}, headers=WRITE)):
            assert answer.status_code == 507 and "disk is full" in answer.json()["detail"]
        ready = client.get("/readyz")
        assert ready.status_code == 503 and "disk is full" in ready.json()["detail"]
        assert client.get("/healthz").status_code == 200
        assert search(client, query="red chair")["hits"]
        assert client.delete("/v1/products/p00", headers=WRITE).status_code == 200, "that makes room"
        assert "mercato_disk_free_bytes" in client.get("/metrics").text
        disk.full = False
        assert post(client).status_code == 200
        wait_until(lambda: ids(search(client, query="zweihander"))[:1] == ["n"])
        assert client.get("/readyz").status_code == 200


def test_strangers_events_are_refused_before_the_shops_own_writes(market):
    class HalfFull(Disk):
        def has_room(self, size=0):
            return size < self.kept_free

    with server(market, disks=(HalfFull(market.path),)) as client:
        assert client.post("/v1/events", json={"events": [event()]}).status_code == 507
        assert client.post("/v1/events", json={"events": [event()]}, headers=WRITE).status_code == 200
        assert post(client).status_code == 200
        assert client.get("/readyz").status_code == 200


def test_what_was_accepted_waits_for_room_and_is_indexed_then(market):
    disk = Filled(market.path)
    with (
        closing(Catalogue.open(market.path / "catalogue.sqlite")) as catalogue,
        open_index(market.path / "index") as index,
    ):
        worker = IngestionWorker(catalogue, [Target(TrigramEncoder(), index)], market.path, "w", disks=[disk])
        seed(catalogue, market)
        catalogue.products.delete("p00")
        before = len(index)
        disk.full = True
        assert (worker.drain(), catalogue.outbox.depth(), len(index)) == (0, 1, before)
        disk.full = False
        assert (worker.drain(), len(index)) == (1, before - 1)


def test_features_of_a_search_are_not_logged_onto_a_full_disk(market, monkeypatch):
    monkeypatch.setattr(routes, "feature_rows", lambda page: [{"query_id": page.query_id}])
    disk = Filled(market.path)
    with server(market, disks=(disk,)) as client:
        kept = []
        monkeypatch.setattr(client.app.state.services.catalogue.features, "append", kept.extend)
        disk.full = True
        search(client, query="red chair")
        disk.full = False
        shown = search(client, query="blue chair")["query_id"]
        wait_until(lambda: kept)
        assert kept == [{"query_id": shown}]


def test_a_database_that_cannot_grow_says_so_in_one_line_and_names_no_product(tmp_path):
    with closing(Catalogue.open(tmp_path / "catalogue.sqlite")) as catalogue:
        row = {"product_id": "secret", "title": "x" * 500}
        with catalogue._database.write() as connection:
            connection.execute(sa.text("PRAGMA max_page_count = 200"))
        with pytest.raises(FullError, match=r"^the catalogue's disk is full$"):
            for number in range(2_000):
                catalogue.events.append([row | {"number": number}] * 50)
        assert catalogue.events.oldest(1), "what was accepted is there"


def test_errors_of_the_database_hide_what_was_written(tmp_path):
    with closing(Catalogue.open(tmp_path / "catalogue.sqlite")) as catalogue:
        with catalogue._database.write() as connection:
            connection.execute(sa.text("DROP TABLE events"))
        with pytest.raises(sa.exc.OperationalError) as error:
            catalogue.events.append([{"session_id": "secret"}])
        assert "secret" not in str(error.value)


def test_an_index_is_compacted_only_where_a_copy_has_room(market, monkeypatch):
    asked = []

    class Small(Disk):
        def has_room(self, size=0):
            asked.append(size)
            return False

    monkeypatch.setattr(embedded, "Disk", Small)
    with open_index(market.path / "index") as index:
        with pytest.raises(MercatoError, match="its disk has no room for a copy"):
            index.compact()
        assert len(index) > 0
    assert len(asked) == 1 and asked[0] > 0


def test_what_writes_through_mappings_asks_for_room_first(market, monkeypatch):
    """A build, each of its batches, its graph; so that a full disk is an error, and not the end of the process."""
    records, asked = [record_from_product(row, np.ones(3, np.float32)) for row in products()], []
    monkeypatch.setattr(build, "check_room", lambda _, size: asked.append(size))
    monkeypatch.setattr(shard, "check_room", build.check_room)
    build_index(market.path / "other", records, 3)
    assert len(asked) == 3 and min(asked) >= shard.MAPPED, "as it begins, for a batch, for the graph"
    with open_index(market.path / "other") as index:
        index.upsert(records[:3])
        index.compact()
    assert len(asked) == 6, "for the copy, for a batch, for the graph"
    monkeypatch.undo()
    monkeypatch.setattr(shard, "MAPPED", 10**18)
    with pytest.raises(FullError, match=r"its disk is full: 1,000,000,000,000 MB more may be needed"):
        build_index(market.path / "third", records, 3)


def test_an_opened_shard_has_no_holes_in_what_it_writes(market):
    with open_index(market.path / "index"):
        (log,) = market.path.glob("index/generation-*/open-*/wal/open-1")
        assert log.stat().st_blocks * 512 >= log.stat().st_size


def test_counts_of_a_worker_have_no_holes(tmp_path, monkeypatch):
    monkeypatch.setenv(FOLDER, str(tmp_path))
    for _ in range(2):
        Metrics()
    sizes = [(file.stat().st_size, file.stat().st_blocks * 512) for file in tmp_path.glob("*.db")]
    assert len(sizes) == 2 and all(0 < size <= taken for size, taken in sizes)


def test_files_count_as_what_they_take(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "full").write_bytes(b"x" * 100_000)
    with (tmp_path / "sparse").open("wb") as file:
        file.truncate(10**9)
    assert 100_000 <= bytes_in(tmp_path) < 10**6


def test_a_disk_leaves_what_it_is_told_to(tmp_path):
    free = Disk(tmp_path).free
    assert Disk(tmp_path, 0).has_room() and Disk(tmp_path, free // 2).has_room(free // 4)
    assert not Disk(tmp_path, free * 2).has_room()
    assert not Disk(tmp_path, 0).has_room(free * 2)
