"""Disks that are really full: the market's, and the index's, whose files are mapped into memory."""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from collections.abc import Callable

import pytest

from mercato.data.market import Market
from mercato.serving.services import FULL
from tests.support.chaos import times
from tests.support.served import event, wait_until
from tests.support.shop import Shop
from tests.support.small_disk import SmallDisk, allowed, on_small_disks
from tests.support.workers import workers

pytestmark = pytest.mark.chaos

MEGABYTE = 1_000_000
KEPT_FREE = 16 * MEGABYTE
NEVER_ASKED = [
    (method, path)
    for method in ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
    for path in (
        "nothing",
        "page/nothing",
        "v1/products/",
        "v1/images/0/",
        "v1/predicted-queries/",
        "v1/market",
        "docs",
    )
]
PRODUCT = {"product_id": "n0", "title": "orange hammock n0", "price": 7.0}


def test_full_disks_stop_writes_alone_and_only_until_there_is_room(tmp_path, attacked):
    if not allowed(tmp_path):
        pytest.skip("this system lets nobody mount a small disk")
    shop, chance = Shop(tmp_path), random.Random(0)
    index = tmp_path / "index"
    shutil.rmtree(shop.market.path / "index")  # the small market's own
    small = on_small_disks({shop.market.path: 64 * MEGABYTE, index: 900 * MEGABYTE})

    def refused() -> bool:
        ready, written = shop.client("GET", "/readyz"), shop.client("POST", "/v1/products", {"products": [PRODUCT]})
        logged = shop.client("POST", "/v1/events", {"events": [event(session_id="s0")]})
        assert shop.client("DELETE", "/v1/products/none").status_code == 404
        return (
            (ready.status_code, written.status_code, logged.status_code) == (503, 507, 507)
            and FULL in ready.json()["detail"]
            and written.json()["detail"] == FULL
        )

    def refusing(disk: SmallDisk, wanted: int) -> Callable[[], bool]:
        """Whether so many writes were refused: what leaves the full disk gives its place to the stranger."""
        return lambda: disk.fill() or shop.seller.statuses[507] >= wanted

    with shop.serving(at_once=0, under=small, MERCATO_KEPT_FREE=str(KEPT_FREE)) as server:
        disks = [SmallDisk(server.pid, folder) for folder in (shop.market.path, index)]
        began = workers(server)
        with attacked("full disks", shop.client.port, lambda: server.pid) as attack:
            for disk in disks:
                disk.fill(left=KEPT_FREE // 2)
                wait_until(refused)
                attack.prober.wait_for_more()
                disk.empty()
                wait_until(shop.client.ready)
            with shop.seller.busy():
                for number in range(times(4, 40)):
                    shop.seller.wait_for_more(chance.randrange(40))
                    disk = disks[number % 2]
                    disk.fill()  # by a stranger, at once
                    wait_until(refusing(disk, shop.seller.statuses[507] + 5))
                    for method, path in NEVER_ASKED:  # of each there is a count, in a file that is mapped, too
                        status = shop.client(method, f"/{path}{number}").status_code
                        assert status < 500 or status == 507, (status, method, path)
                    attack.prober.wait_for_more(20)
                    disk.empty()
            wait_until(shop.client.ready)
            shop.seller.check()
            assert set(shop.seller.statuses) <= {200, 404, 507}
            assert server.poll() is None and workers(server) == began
            market = Market.open(disks[0].folder)
            wait_until(lambda: set(shop.seller.logged) <= set(market.frame("events")["session_id"]))
            stored = Counter(market.frame("events")["session_id"])
            assert {stored[session] for session in shop.seller.sent} <= {0, 1}
            attack.checked = shop.seller.counts.total()
        server.send_signal(signal.SIGTERM)
        assert server.wait(120) == 0
