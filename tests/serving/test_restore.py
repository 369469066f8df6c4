"""`mercato backup` of a server that is written to, `mercato restore`, and a server on what was restored."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from threading import Event

import pytest
from typer.testing import CliRunner

from mercato.catalogue import indexing
from mercato.cli import app
from mercato.data.market import Market
from mercato.doctor import examine
from tests.support.serve_verb import post, serving
from tests.support.served import event, free_port, ids, wait_until

KEY = "a-key-for-tests-0123456789"
WRITE = {"X-API-Key": KEY}
QUERIES = ("sofa", "red chair", "bicycle", "")


def mercato(*words) -> dict:
    answer = CliRunner().invoke(app, [*map(str, words), "--json"], catch_exceptions=False)
    assert answer.exit_code == 0, answer.output
    return json.loads(answer.stdout)


def serve(run, market, index):
    command = [sys.executable, "-m", "mercato.cli", "serve", run, "--market", market, "--index", index]
    return serving([*command, "--port", str(free_port())], MERCATO_API_KEY=KEY)


def get(address: str, path: str) -> dict | None:
    try:
        with urllib.request.urlopen(f"{address}{path}") as answer:
            return json.load(answer)
    except urllib.error.HTTPError as error:
        assert error.code == 404
        return None


def answers(address: str) -> list[list[tuple[str, float, float]]]:
    pages = (post(address, "/v1/search", {"query": query, "page_size": 50})["hits"] for query in QUERIES)
    return [[(hit["product"]["product_id"], hit["cosine"], round(hit["bm25"], 5)) for hit in hits] for hits in pages]


class Seller:
    """Writes, prices anew, deletes and reports until told to stop; what was acknowledged is counted."""

    def __init__(self, address: str) -> None:
        self.address, self.ended, self.round, self.reported = address, Event(), 0, list[str]()

    def work(self) -> None:
        while not self.ended.is_set():
            number = self.round
            row = {"product_id": f"n{number % 40}", "title": f"zyx{number % 40} hammock", "price": 1 + number}
            post(self.address, "/v1/products", {"products": [row]}, **WRITE)
            post(self.address, "/v1/events", {"events": [event(session_id=f"s{number}")]})
            self.reported.append(f"s{number}")
            if number % 3 == 0 and number >= 20:
                request = urllib.request.Request(
                    f"{self.address}/v1/products/n{(number - 20) % 40}", headers=WRITE, method="DELETE"
                )
                urllib.request.urlopen(request).close()
            self.round += 1


@pytest.fixture
def whole(tiny_market, tiny_run, tmp_path):
    market, run = shutil.copytree(tiny_market.path, tmp_path / "market"), tmp_path / "run"
    shutil.copytree(tiny_run, run)
    indexing.index_market(run, Market.open(market), str(tmp_path / "index"))
    return run, market, tmp_path / "index"


def check(folder, least: Seller, events: int) -> None:
    """What was restored is whole, served, and of one piece; returns what it answers."""
    findings = [*examine([folder])]
    assert all(finding.ok for finding in findings), findings
    assert sorted(finding.kind for finding in findings) == ["catalogue", "index", "market", "run", "together"]
    market = folder / "market"
    with serve(folder / "run", market, folder / "index") as address:
        found = 0
        for number in range(40):
            product = get(address, f"/v1/products/n{number}")
            page = post(address, "/v1/search", {"query": f"zyx{number}", "mode": "text", "page_size": 5})
            assert ids(page) == ([f"n{number}"] if product else [])
            assert [hit["product"] for hit in page["hits"]] == ([product] if product else [])
            found += product is not None
        browsed = post(address, "/v1/search", {"query": "", "page_size": 1})
        assert browsed["total"] == get(address, "/v1/market")["products"]
        told = answers(address)
    sessions = [
        name for name in Market.open(market).arrow("events")["session_id"].to_pylist() if name in least.reported
    ]
    assert len(sessions) == len(set(sessions)) >= events
    assert set(least.reported[:events]) <= set(sessions)
    return told


@pytest.mark.slow
def test_a_backup_of_a_server_at_work_is_served_again_as_it_was(whole, tmp_path):
    run, market, index = whole
    with serve(run, market, index) as address, ThreadPoolExecutor() as threads:
        seller = Seller(address)
        working = threads.submit(seller.work)
        try:
            wait_until(lambda: seller.round > 30 or working.done())
            reported = len(seller.reported)
            told = mercato("backup", market, "--index", index, "--to", tmp_path / "busy")
            wait_until(lambda: seller.round > reported + 30 or working.done())
        finally:
            seller.ended.set()
        working.result()
        wait_until(lambda: "mercato_outbox_depth 0.0" in read(address, "/metrics"))
        before = answers(address)
        mercato("backup", market, "--index", index, "--to", tmp_path / "quiet")
    assert told["run"] and told["index"].startswith(told["run"]) and told["files"] > 50
    for name, events in (("busy", reported), ("quiet", len(seller.reported))):
        mercato("restore", tmp_path / name, "--to", tmp_path / f"{name}-again")
        after = check(tmp_path / f"{name}-again", seller, events)
    assert after == before
    assert [finding.kind for finding in examine([tmp_path / "busy"]) if finding.ok] == ["backup"]


def read(address: str, path: str) -> str:
    with urllib.request.urlopen(f"{address}{path}") as answer:
        return answer.read().decode()


KILL = """
import os, signal, sys
from mercato import cli, copying
from mercato.catalogue import backup, restore
left = int(sys.argv.pop(1))
copy, done = copying.Piece.copy, lambda *_: os.kill(os.getpid(), signal.SIGKILL)
def dying(*given):
    global left
    left -= 1
    return copy(*given) if left else done()
copying.Piece.copy = dying
if left == 0:
    backup.sync_tree = restore.sync_tree = done
cli.main()
"""


@pytest.mark.parametrize("copies", [1, 9, 0], ids=["at its begin", "on its way", "at its end"])
def test_what_is_killed_leaves_nothing_that_looks_whole(market, tmp_path, copies):
    from mercato.catalogue.store import Catalogue

    Catalogue.open(market.path / "catalogue.sqlite").close()
    backup = ["backup", market.path, "--index", market.path / "index", "--to", tmp_path / "backup"]
    restore = ["restore", tmp_path / "backup", "--to", tmp_path / "again"]
    for verb, target in ((backup, "backup"), (restore, "again")):
        killed = subprocess.run([sys.executable, "-c", KILL, str(copies), *verb], capture_output=True, text=True)
        assert killed.returncode == -9, killed.stderr
        assert not (tmp_path / target).exists()
        assert {path.name[0] for path in tmp_path.iterdir() if target in path.name[:8]} == {"."}
        mercato(*verb)
