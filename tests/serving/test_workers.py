"""Several workers behind one port: they answer alike, a killed one is replaced, what is acknowledged is not lost."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mercato.catalogue import backfill as backfilling
from mercato.catalogue.backfill import backfill
from mercato.data.market import Market
from mercato.data.query_rules import RULES
from mercato.retrieval.open import swap_index
from mercato.runs.folder import WEIGHTS
from tests.support.served import free_port, ids, wait_until
from tests.support.served_run import OnnxEncoder
from tests.support.verb_server import indexed
from tests.support.workers import WORKERS, Client, workers
from tests.support.workers import serving as served_by


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """What it serves."""
    return indexed(tmp_path_factory.mktemp("workers"))


@pytest.fixture(scope="module")
def served(made):
    """A server with workers, for all tests but the last, and a client of it."""
    with serving(*made, free_port()) as (server, client):
        yield server, client


@contextmanager
def serving(run: Path, market: Market, index: Path, port: int) -> Iterator[tuple[subprocess.Popen, Client]]:
    client = Client(port)
    with served_by("tests.support.served_run", run, market.path, index, port, WORKERS, client=client) as server:
        yield server, client


def new(number: int) -> dict:
    return {"products": [{"product_id": f"n{number}", "title": f"orange hammock {number}"}]}


def test_workers_answer_alike_and_count_together(served):
    _, client = served
    before = client.metric("mercato_requests_total")
    assert client("POST", "/v1/products", new(0)).status_code == 200
    for _ in range(20):
        wait_until(lambda: "n0" in client.found("orange hammock 0"))
    assert client("DELETE", "/v1/products/n0").status_code == 200
    for _ in range(20):
        assert "n0" not in client.found("orange hammock 0")

    def counted_one_by_one() -> bool:
        counted = [client.metric("mercato_requests_total") for _ in range(10)]
        return counted == [counted[0] + number for number in range(10)] and counted[0] > before + 40

    wait_until(counted_one_by_one)  # at first one may be told before the answer to the one before it has been counted
    wait_until(lambda: client.metric("mercato_outbox_depth") == 0)
    assert client.metric("mercato_index_size") == 48


def test_pages_go_on_at_any_worker(served):
    _, client = served
    body, shown = {"query": "chair", "page_size": 4}, []
    while True:
        page = client("POST", "/v1/search", body).json()
        shown += ids(page)
        if page["cursor"] is None:
            break
        body = body | {"cursor": page["cursor"]}
    assert len(shown) == len(set(shown)) == 48


def test_every_worker_follows_the_rules(served, made):
    """Without a restart; while the file is broken the rules of before go on."""
    _, client = served
    file = made[1].path / RULES

    def all_begin_with(product_id: str) -> bool:
        return {client.found("red chair")[0] for _ in range(20)} == {product_id}

    assert all_begin_with("p00")
    file.write_text('[[rules]]\nquery = "Red chair"\npin = ["p40"]')
    wait_until(lambda: all_begin_with("p40"))
    file.write_text("[[")
    assert all_begin_with("p40")
    file.unlink()
    wait_until(lambda: all_begin_with("p00"))


def test_a_killed_worker_is_replaced(served):
    server, client = served
    old = workers(server)
    os.kill(old[0], signal.SIGKILL)
    assert client("POST", "/v1/products", new(1)).status_code == 200
    wait_until(lambda: len(set(workers(server)) - set(old)) == 1 and len(workers(server)) == WORKERS)
    for _ in range(10):
        wait_until(lambda: "n1" in client.found("orange hammock 1"))


def test_every_worker_follows_a_swap_and_none_loses_a_write(tmp_path, monkeypatch):
    run, market, index = indexed(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(run, other)
    (other / WEIGHTS).write_bytes(b"other weights")
    monkeypatch.setattr(backfilling, "OnnxEncoder", OnnxEncoder)

    def all_answer_from(run: Path) -> bool:
        return {client("GET", "/v1/market").json()["model"]["name"] for _ in range(20)} == {run.name}

    with serving(run, market, index, free_port()) as (server, client):
        assert client("POST", "/v1/products", new(0)).status_code == 200
        backfill(other, market, str(index))
        assert client("POST", "/v1/products", new(1)).status_code == 200
        wait_until(lambda: all_answer_from(other))
        os.kill(workers(server)[0], signal.SIGKILL)
        assert client("POST", "/v1/products", new(2)).status_code == 200
        wait_until(lambda: len(workers(server)) == WORKERS and client.metric("mercato_outbox_depth") == 0)
        for back in (run, other):
            swap_index(index)
            wait_until(lambda back=back: all_answer_from(back))
            for number in range(3):
                assert f"n{number}" in client.found(f"orange hammock {number}")
