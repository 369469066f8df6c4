"""What is acknowledged is not lost, doubled or stale, at whichever step of which process `kill -9` comes.

A seller writes, prices anew and deletes all the while. MERCATO_KILLS=N kills at every step, and N times at random.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from mercato.catalogue import indexing
from mercato.files import write_atomic
from mercato.retrieval.open import drop_standby, generations, swap_index
from tests.support.salted_runs import SaltedEncoder, make_run
from tests.support.seller import Seller
from tests.support.served import free_port, wait_until
from tests.support.small_market import make_market, products
from tests.support.workers import WORKERS, Client, children, serving, workers

KILLS = int(os.environ.get("MERCATO_KILLS", 1))
MORTAL = "tests.support.mortal"


def some(*steps: str, of_all: int) -> list[str]:
    """The first of these steps, or all of them."""
    return [*steps[: None if KILLS > 1 else of_all]]


class Market:
    """A market, two runs, an index that the first has made, and all who work on them."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.index, self.dies = folder, str(folder / "index"), folder / "dies"
        self.runs = [make_run(folder / "one", "one", 32), make_run(folder / "two", "two", 48)]
        self.market = make_market(folder / "market")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(indexing, "OnnxEncoder", SaltedEncoder)
            indexing.index_market(self.runs[0], self.market, self.index)
        self.client = Client(free_port())
        titles = {product["product_id"]: product["title"] for product in products()}
        self.seller = Seller(self.client, titles, seed=KILLS)
        self.killed: Counter[str] = Counter()

    @contextmanager
    def serving(self, at_once: int = 2_000) -> Iterator[subprocess.Popen]:
        """Serve, with workers."""
        given = ("serve", self.runs[0], self.market.path, self.index, self.client.port, WORKERS, at_once)
        with serving(MORTAL, *given, client=self.client, MERCATO_DIES=str(self.dies)) as server:
            yield server

    def begun(self, *arguments: object) -> subprocess.Popen:
        """A process that has begun to backfill or to swap."""
        environment = os.environ | {"MERCATO_DIES": str(self.dies)}
        command = [sys.executable, "-m", MORTAL, *map(str, arguments)]
        return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def backfill(self, run: int) -> subprocess.Popen:
        return self.begun("backfill", self.runs[run], self.market.path, self.index)

    def backfilled(self, run: int) -> None:
        assert self.backfill(run).wait(120) == 0

    def dies_at(self, step: str) -> None:
        """Whoever comes to this step from now on, first, dies there."""
        write_atomic(self.dies, step)

    def wait_for_the_death(self) -> None:
        wait_until(lambda: not self.dies.exists())
        self.killed["at a step"] += 1

    def served_run(self) -> int:
        made_by = generations(self.index).served.split()[0]
        return [indexing.run_fingerprint(run) for run in self.runs].index(made_by)

    def wait_until_all_answer_from(self, run: int) -> None:
        name = f"run {('one', 'two')[run]}"

        def answer_alike() -> bool:
            return all(self.client("GET", "/v1/market").json()["model"]["name"] == name for _ in range(20))

        wait_until(answer_alike)

    def check(self, server: subprocess.Popen) -> None:
        """Nothing is lost, doubled or stale: in what is served, in what stands by, and in the table of events."""
        self.seller.check()
        if generations(self.index).standby is not None:
            swap_index(self.index)
            self.wait_until_all_answer_from(self.served_run())
            self.seller.check()
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
        stored = Counter(self.market.frame("events")["session_id"])
        assert max(stored.values()) == 1 and set(self.seller.logged) <= set(stored) <= set(self.seller.sent)
        print(f"killed {dict(self.killed)}; acknowledged {dict(self.seller.counts)}")


@pytest.fixture
def market(tmp_path) -> Market:
    return Market(tmp_path)


COMPACTION = some(
    "serve name entered",  # the new generation is whole, and nobody knows it
    "serve rotate left",
    "serve remove entered",
    "serve seal left",
    "serve rotate entered",
    "serve compact entered",
    "serve seal entered",
    "serve compact left",
    "serve name left",
    "serve go on entered",
    "serve go on left",
    "serve remove left",
    "serve flush left",  # on the index's disk and not acknowledged
    "serve acknowledge left",
    of_all=3,
)


def test_a_server_that_is_killed_within_a_compaction_loses_nothing(market):
    with market.serving(), market.seller.busy():
        market.backfilled(1)
    for step in COMPACTION:
        with market.serving() as server:
            market.seller.check()
            with market.seller.busy():
                market.dies_at(step)
                assert server.wait(120) == -signal.SIGKILL
                market.wait_for_the_death()
    with market.serving() as server:
        market.check(server)


def test_a_compaction_in_a_process_of_its_own_that_is_killed_loses_nothing(market):
    steps = some("serve compact elsewhere entered", "serve compact elsewhere left", of_all=0)
    with market.serving(at_once=0) as server, market.seller.busy():
        for _ in range(2):
            wait_until(lambda: kill_a_compaction(server))
            market.seller.wait_for_more()
        wait_until(lambda: children(server, "qdrant_edge.build"))
        os.kill(server.pid, signal.SIGKILL)  # the compaction outlives it
    for step in steps:
        with market.serving(at_once=0) as server:
            market.seller.check()
            with market.seller.busy():
                market.dies_at(step)
                market.wait_for_the_death()
    with market.serving(at_once=0) as server:
        market.check(server)


def kill_a_compaction(server: subprocess.Popen) -> bool:
    for child in children(server, "qdrant_edge.build"):
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(child, signal.SIGKILL)
            return True
    return False


BACKFILL = some(
    "backfill vectors left",
    "backfill note read left",
    "backfill name entered",
    "backfill name left",
    "backfill swap left",
    "backfill embed left",
    "backfill seal entered",
    "backfill seal left",
    "backfill built entered",
    "backfill built left",
    "backfill swap entered",
    "backfill end entered",
    of_all=5,
)


def test_a_backfill_that_is_killed_while_a_server_takes_writes_loses_nothing(market):
    with market.serving() as server:
        with market.seller.busy():
            for step in BACKFILL:
                market.dies_at(step)
                assert market.backfill(1).wait(120) == -signal.SIGKILL
                market.wait_for_the_death()
            if generations(market.index).served.split()[0] != indexing.run_fingerprint(market.runs[1]):
                market.backfilled(1)
            market.wait_until_all_answer_from(1)
        market.check(server)
