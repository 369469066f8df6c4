from __future__ import annotations

import gc
import json
import os
import signal
import threading
from contextlib import closing
from unittest.mock import Mock

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fastapi.testclient import TestClient
from uvicorn.supervisors import multiprocess

from mercato import progress
from mercato.catalogue import indexing
from mercato.catalogue.store import Catalogue
from mercato.data.market import CATALOGUE
from mercato.data.query_rules import RULES
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import open_index
from mercato.runs.folder import RETRIEVAL, WEIGHTS
from mercato.serving import deployment, process, server
from mercato.serving.connections import DEFAULTS
from mercato.serving.server import KEY, KEY_FILE, serve_run
from tests.support.served import event, ids, search, wait_until
from tests.support.served_run import OnnxEncoder
from tests.support.small_market import TrigramEncoder, make_market, products


@pytest.fixture
def run(tmp_path, monkeypatch):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(b"weights")
    (folder / RETRIEVAL).write_text(json.dumps({"radius": None}))
    monkeypatch.setattr(deployment, "OnnxEncoder", OnnxEncoder)
    monkeypatch.setattr(indexing, "OnnxEncoder", OnnxEncoder)
    monkeypatch.delenv(KEY, raising=False)
    return folder


@pytest.fixture
def market(tmp_path, run):
    market = make_market(tmp_path / "market")
    indexing.index_market(run, market, str(tmp_path / "index"))
    return market


@pytest.fixture
def serve(run, market, tmp_path, monkeypatch):
    """Start a server and do something with its client in place of waiting for an interrupt."""

    def start(do=lambda client: None):
        def now(application, listening, _):
            with TestClient(application) as client:
                do(client)

        monkeypatch.setattr(server, "serve", now)
        serve_run(run, market, str(tmp_path / "index"), "127.0.0.1", 8300)

    return start


def write_products(market, rows):
    pq.write_table(pa.Table.from_pylist(rows, schema=PRODUCTS), market.path / "products.parquet")


def test_broken_rules_are_refused_at_the_start_and_serve_afterwards(serve, market):
    (market.path / RULES).write_text('[[rules]]\nquery = "red chair"\npin = "p40"')
    with pytest.raises(MercatoError, match="rule 1, field pin"):
        serve()
    (market.path / RULES).write_text('[[rules]]\nquery = "red chair"\npin = ["p40"]')
    serve(lambda client: ids(search(client, query="red chair"))[0] == "p40" or pytest.fail("it is not pinned"))


def test_where_somebody_has_a_key_that_may_write_none_is_made(serve, market):
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        _, key = catalogue.keys.add("shop", ["write"])
        revoked, _ = catalogue.keys.add("old", ["write"])
        catalogue.keys.revoke(revoked.key_id)
    (market.path / KEY_FILE).write_text("of an earlier start")

    def write(client):
        assert not (market.path / KEY_FILE).exists()
        body = {"products": [{"product_id": "n", "title": "t"}]}
        for wrong in ("of an earlier start", "None", ""):
            assert client.post("/v1/products", json=body, headers={"X-API-Key": wrong}).status_code == 401
        assert client.post("/v1/products", json=body, headers={"X-API-Key": key}).status_code == 200

    serve(write)


def test_what_is_to_be_open_must_be_known(run, market, tmp_path):
    with pytest.raises(MercatoError, match="--open: 'serach' is no area; there are search, embed, events"):
        serve_run(run, market, str(tmp_path / "index"), "127.0.0.1", 8300, open_areas=["serach", "docs"])


def test_the_address_is_said_in_quiet_too_and_the_key_only_in_its_file(serve, market, capfd):
    def write(client):
        file = market.path / KEY_FILE
        assert file.stat().st_mode & 0o777 == 0o600
        body = {"products": [{"product_id": "n", "title": "t"}]}
        assert client.post("/v1/products", json=body, headers={"X-API-Key": "no"}).status_code == 401
        headers = {"X-API-Key": file.read_text().strip()}
        assert client.post("/v1/products", json=body, headers=headers).status_code == 200
        body["products"][0]["image_embeddings"] = [[1.0, 2.0]]
        assert client.post("/v1/products", json=body, headers=headers).status_code == 422

    (market.path / KEY_FILE).write_text("an old one that all may read")
    progress.quiet()
    try:
        serve(write)
    finally:
        progress.quiet(False)
    said = capfd.readouterr().err
    assert "http://127.0.0.1:83" in said and str(market.path / KEY_FILE) in said
    assert (market.path / KEY_FILE).read_text().strip() not in said
    assert (market.path / CATALOGUE).stat().st_mode & 0o777 == 0o600


def test_ones_own_key_is_neither_said_nor_written(serve, market, monkeypatch, capfd):
    monkeypatch.setenv(KEY, "a-key-of-ones-own")
    body = {"products": [{"product_id": "n", "title": "t"}]}
    headers = {"X-API-Key": "a-key-of-ones-own"}
    serve(lambda client: client.post("/v1/products", json=body, headers=headers).raise_for_status())
    assert not (market.path / KEY_FILE).exists() and "a-key-of-ones-own" not in capfd.readouterr().err


def test_a_market_has_one_server(serve):
    def again(_):
        with pytest.raises(MercatoError, match="another `mercato serve`"):
            serve()

    serve(again)
    serve()


def test_the_runs_radius_bounds_what_is_near(serve, run):
    (run / RETRIEVAL).write_text(json.dumps({"min_cosine": 0.999}))
    found = []
    serve(lambda client: found.extend(ids(search(client, query="red chair", mode="semantic"))))
    assert found == ["p00", "p24"]


def test_a_table_that_changed_since_the_index_is_warned_of(serve, market, capfd):
    serve(lambda client: client.post("/v1/events", json={"events": [event()]}).raise_for_status())
    assert market.has("events")
    serve()
    assert "warning" not in capfd.readouterr().err  # the log grows, the index stays right
    write_products(market, products()[:40])
    serve()
    assert "the market's tables changed after this index was built" in capfd.readouterr().err


def test_another_runs_index_is_refused(serve, run):
    (run / WEIGHTS).write_bytes(b"others")
    with pytest.raises(MercatoError, match="indexed by another run"):
        serve()


def test_of_a_repeated_product_the_first_row_is_indexed(run, market, tmp_path, monkeypatch):
    monkeypatch.setattr(indexing, "BATCH", 5)
    rows = products()
    write_products(
        market, [*rows[:3], rows[0] | {"title": "near repeat"}, *rows[3:], rows[0] | {"title": "far repeat"}]
    )
    assert indexing.index_market(run, market, str(tmp_path / "again"))["count"] == 48
    with open_index(tmp_path / "again") as index:
        vector = TrigramEncoder().encode_queries(["red chair"])[0]
        hits = index.search(Expression(vector=vector), 2)
        assert {hit.product_id for hit in hits if hit.cosine > 0.999} == {"p00", "p24"}


@pytest.mark.parametrize("host", ["nosuch.invalid", "192.0.2.1"])
def test_a_host_that_is_not_here_is_named(host):
    with pytest.raises(MercatoError, match=f"--host: {host} cannot be listened on"):
        process.listen(8300, host)


def test_the_garbage_collector_looks_at_what_a_request_leaves_alone(tmp_path, monkeypatch):
    """What a server holds takes it .1 s and more, in which no request goes on."""
    frozen = []
    monkeypatch.setattr(process.uvicorn.Server, "run", lambda *_: frozen.append(gc.get_freeze_count()))
    monkeypatch.setenv(process.FOLDER, str(tmp_path))
    try:
        with process.listen(8300) as listening:
            process.serve(None, listening, DEFAULTS)
        gc.unfreeze()
        process._Worker(lambda: "app")()
        assert min(frozen[0], gc.get_freeze_count()) > 10_000
    finally:
        gc.unfreeze()


def test_the_first_worker_that_cannot_start_ends_the_server_and_a_later_one_is_tried_again(tmp_path, monkeypatch):
    waited, apps = [], iter([None, "app", None])
    monkeypatch.setenv(process.FOLDER, str(tmp_path))
    monkeypatch.setattr(process.time, "sleep", waited.append)
    worker = process._Worker(lambda: next(apps) or 1 / 0)
    with pytest.raises(SystemExit) as first:
        worker()
    assert first.value.code == process.STARTUP_FAILURE and waited == []
    assert worker() == "app"
    with pytest.raises(SystemExit) as later:
        worker()
    assert later.value.code not in (0, process.STARTUP_FAILURE) and waited == [process._AGAIN_SECONDS]


def test_a_worker_that_dies_while_it_is_asked_whether_it_lives_is_replaced_at_once(monkeypatch):
    monkeypatch.setattr(multiprocess, "SIGNALS", {})  # these are pytest's
    with process.listen(8300) as listening:
        config = process._Config("fastapi:FastAPI", DEFAULTS, factory=True, workers=1)
        config.timeout_worker_healthcheck = 10**6
        supervisor = process._Supervisor(config, [listening])
        supervisor.init_processes()
        (first,) = supervisor.processes
        poll, asked = first.parent_conn.poll, threading.Event()
        monkeypatch.setattr(first, "parent_conn", Mock(wraps=first.parent_conn))
        first.parent_conn.poll.side_effect = lambda timeout: asked.set() or poll(timeout)
        os.kill(first.pid, signal.SIGSTOP)
        asking = threading.Thread(target=supervisor.keep_subprocess_alive, daemon=True)
        asking.start()
        try:
            asked.wait()
            os.kill(first.pid, signal.SIGKILL)
            wait_until(lambda: supervisor.processes[0] is not first)
        finally:
            asking.join(1)
            supervisor.terminate_all()
            supervisor.join_all()


def test_what_a_killed_servers_workers_counted_is_gone(tmp_path, monkeypatch):
    left = tmp_path / "metrics" / "counter_1.db"
    left.parent.mkdir()
    left.touch()
    counted = []
    supervisor = Mock(processes=[], run=lambda: counted.append([*left.parent.iterdir()]))
    monkeypatch.setattr(process, "_Supervisor", lambda *_: supervisor)
    process.serve_with_workers(None, None, DEFAULTS, 2, left.parent)
    assert counted == [[]] and not left.parent.exists()
