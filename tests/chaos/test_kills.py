"""`kill -9` of a server and of its workers, whenever, under load."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest

from tests.support.chaos import times
from tests.support.served import wait_until
from tests.support.shop import Shop
from tests.support.workers import workers

pytestmark = pytest.mark.chaos

KILLS = times(3, 50)


def test_kills_lose_nothing_and_those_of_workers_stop_no_search(tmp_path, attacked):
    shop, chance = Shop(tmp_path, seed=KILLS), random.Random(KILLS)

    def all_answer() -> bool:
        """Each worker has answered a search: it has counted that."""
        counts = shop.market.path / ".cache" / "metrics"
        files = [counts / f"counter_{worker}.db" for worker in workers(server)]
        return len(files) == 2 and all(file.is_file() and b"/v1/search" in file.read_bytes() for file in files)

    with ExitStack() as running:
        server = running.enter_context(shop.serving())
        folders = [shop.market.path, tmp_path / "index"]
        with attacked(f"{KILLS} kills under load", shop.client.port, lambda: server.pid, folders) as attack:
            with shop.seller.busy():
                for number in range(KILLS):
                    wait_until(all_answer)
                    shop.seller.wait_for_more(chance.randrange(5, 30))
                    if number % 2:
                        with attack.prober.without_a_server():
                            shop.kills("server", server.pid)
                            running.close()
                            server = running.enter_context(shop.serving())
                    else:
                        shop.kills("worker", chance.choice(workers(server)))
            shop.seller.check()
            attack.checked = shop.seller.counts.total()
        shop.check(server)
