"""What is acknowledged is not lost, doubled or stale, at whichever step of which process `kill -9` comes.

A seller writes, prices anew and deletes all the while. The long form kills at every step.
"""

from __future__ import annotations

import random
import signal

import pytest

from mercato.retrieval.open import swap_index
from tests.support.chaos import LONG, times
from tests.support.served import wait_until
from tests.support.shop import Shop
from tests.support.workers import children, workers

pytestmark = pytest.mark.chaos

KILLS = times(1, 10)  # at random


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
if not LONG:
    COMPACTION, BACKFILL, TAKEN_UP, SWAP = COMPACTION[:2], BACKFILL[::2], TAKEN_UP[:1], SWAP[:1]


@pytest.fixture
def shop(tmp_path) -> Shop:
    return Shop(tmp_path, seed=KILLS)


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
