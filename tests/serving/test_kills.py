"""What is acknowledged is not lost, doubled or stale, at whichever step of which process `kill -9` comes.

A seller writes, prices anew and deletes all the while. MERCATO_KILLS=N kills at every step, and N times at random.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from mercato.catalogue import indexing
from mercato.files import write_atomic
from mercato.retrieval.open import generations, swap_index
from tests.support.salted_runs import SaltedEncoder, make_run
from tests.support.seller import Seller
from tests.support.served import free_port, wait_until
from tests.support.small_market import make_market, products
from tests.support.workers import WORKERS, Client, children, serving, workers

KILLS = int(os.environ.get("MERCATO_KILLS", 1))
MORTAL = "tests.support.mortal"


COMPACTION = [
    "serve name entered",  # the new generation is whole, and nobody knows it
    "serve remove entered",  # all go on with it, and the old one is there still
    "serve rotate entered",
    "serve rotate left",
    "serve compact entered",
    "serve seal entered",
    "serve seal left",
    "serve compact left",
    "serve name left",
    "serve go on entered",
    "serve go on left",
    "serve remove left",
    "serve compact elsewhere entered",
    "serve compact elsewhere left",
    "serve flush left",  # on the index's disk, and in the outbox still
    "serve acknowledge left",
]
BACKFILL = [
    "backfill vectors left",
    "backfill embed left",
    "backfill note read left",
    "backfill seal left",
    "backfill name entered",  # the standby is whole, and nobody knows it
    "backfill name left",
    "backfill built left",
    "backfill swap entered",
    "backfill swap left",
    "backfill end entered",
]
TAKEN_UP = [
    "serve replay entered",  # what it missed is not in the outbox yet
    "serve open entered",
    "serve lapse entered",
    "serve lapse left",
    "serve follow entered",
    "serve replay left",  # it is, and nobody has noted so
    "serve follow left",
    "serve close entered",
    "serve close left",
]
SWAP = ["serve exchange left", "serve exchange entered"]
if KILLS == 1:
    COMPACTION, BACKFILL, TAKEN_UP, SWAP = COMPACTION[:2], BACKFILL[::2], TAKEN_UP[:1], SWAP[:1]


class Shop:
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
        return subprocess.Popen(command, env=environment)

    def backfill(self, run: int) -> subprocess.Popen:
        return self.begun("backfill", self.runs[run], self.market.path, self.index)

    def backfilled(self, run: int) -> None:
        assert self.backfill(run).wait(120) == 0

    def dies_at(self, step: str) -> None:
        """Whoever comes to this step from now on, first, dies there."""
        write_atomic(self.dies, step)

    def died(self, step: str) -> None:
        """Wait until it has."""
        wait_until(lambda: not self.dies.exists())
        self.killed[f"{step.split()[0]} at a step"] += 1

    def kills(self, kind: str, pid: int) -> bool:
        """Kill a process; False where it has just ended."""
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            return False
        self.killed[f"{kind} at random"] += 1
        return True

    @property
    def standby(self) -> str | None:
        return generations(self.index).standby

    def served_run(self) -> int:
        """Which run's generation is served by what the index says."""
        made_by = generations(self.index).served.split()[0]
        return [indexing.run_fingerprint(run) for run in self.runs].index(made_by)

    def wait_until_it_answers(self) -> None:
        """Wait until every worker answers from what is served."""
        name = f"run {('one', 'two')[self.served_run()]}"

        def answer_alike() -> bool:
            try:
                return all(self.client("GET", "/v1/market").json()["model"]["name"] == name for _ in range(20))
            except httpx.TransportError:  # of one that is killed
                return False

        wait_until(answer_alike)

    def check(self, server: subprocess.Popen) -> None:
        """Nothing is lost, doubled or stale: in what is served, in what stands by, and in the table of events."""
        self.seller.check()
        if self.standby is not None:
            swap_index(self.index)
            self.wait_until_it_answers()
            self.seller.check()
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
        stored = Counter(self.market.frame("events")["session_id"])
        assert max(stored.values()) == 1 and set(self.seller.logged) <= set(stored) <= set(self.seller.sent)
        print(f"killed {dict(self.killed)}; acknowledged {dict(self.seller.counts)}")


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path)


def test_a_compaction_within_which_the_server_is_killed_loses_nothing(shop):
    for step in COMPACTION:
        with shop.serving(at_once=0 if "elsewhere" in step else 2_000) as server:
            shop.seller.check()
            with shop.seller.busy():
                if shop.standby is None:
                    shop.backfilled(1)
                shop.dies_at(step)
                shop.died(step)
                assert server.wait(120) == -signal.SIGKILL
    with shop.serving() as server:
        with shop.seller.busy():
            for step in ("worker go on entered", "worker go on left"):  # one that follows what the server has compacted
                shop.dies_at(step)
                shop.died(step)
        shop.check(server)


def test_a_backfill_that_is_killed_while_a_server_takes_writes_loses_nothing(shop):
    with shop.serving() as server:
        with shop.seller.busy():
            for step in BACKFILL:
                shop.dies_at(step)
                while shop.dies.exists():  # one that goes on may be past the step: then the next one comes to it
                    assert shop.backfill(1).wait(120) in (0, -signal.SIGKILL)
                shop.died(step)
            shop.wait_until_it_answers()
        shop.check(server)


def test_a_server_that_is_killed_while_it_takes_up_a_standby_loses_nothing(shop):
    for step in TAKEN_UP:
        with shop.serving() as server:
            shop.seller.check()
            with shop.seller.busy():
                run = 1 - shop.served_run()
                shop.dies_at("backfill embed left")
                shop.backfill(run).wait(120)
                shop.died("backfill embed left")
                shop.seller.wait_for_more(20)  # so that the standby lacks some
                shop.dies_at(step)
                backfill = shop.backfill(run)  # it goes on alone
                shop.died(step)
                assert server.wait(120) == -signal.SIGKILL and backfill.wait(120) == 0
    with shop.serving() as server:
        shop.check(server)


def test_a_swap_within_which_a_process_is_killed_loses_nothing(shop):
    for step in SWAP:
        with shop.serving() as server:
            with shop.seller.busy():
                shop.backfilled(1 - shop.served_run())
                for own in ("swap name entered", "swap name left", "worker exchange entered", "worker exchange left"):
                    shop.dies_at(own)
                    shop.begun("swap", shop.index).wait(120)
                    shop.died(own)
                    shop.wait_until_it_answers()
            shop.seller.check()
            with shop.seller.busy():
                shop.dies_at(step)
                swap_index(shop.index)
                shop.died(step)
                assert server.wait(120) == -signal.SIGKILL
    with shop.serving() as server:
        shop.check(server)


def test_whatever_is_killed_whenever_nothing_is_lost(shop):
    """A compaction is a process of its own here, as it is where an index is large."""
    chance, backfills = random.Random(KILLS), []

    def kill_a_worker() -> None:
        for worker in workers(server)[:1]:
            shop.kills("worker", worker)

    def kill_a_compaction() -> None:
        wait_until(lambda: any(shop.kills("compaction", child) for child in children(server, "qdrant_edge.build")))

    def kill_a_backfill() -> None:
        for backfill in backfills:
            if backfill.poll() is None:
                shop.kills("backfill", backfill.pid)
            assert backfill.wait() in (0, -signal.SIGKILL)
        backfills[:] = [shop.backfill(chance.randrange(2))]

    def swap() -> None:
        if shop.standby is not None:
            swap_index(shop.index)

    for _ in range(KILLS):
        with shop.serving(at_once=0) as server:
            shop.seller.check()
            with shop.seller.busy():
                kill_a_backfill()  # of the round before: where it still runs
                deeds = [kill_a_worker, kill_a_compaction, kill_a_backfill, swap, swap]
                for deed in chance.sample(deeds, len(deeds)):
                    shop.seller.wait_for_more(chance.randrange(20))
                    deed()
                shop.seller.wait_for_more(chance.randrange(20))
                shop.kills("server", server.pid)
    with shop.serving(at_once=0) as server:
        assert all(backfill.wait(120) == 0 for backfill in backfills)
        shop.check(server)
