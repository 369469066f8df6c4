"""A market that is served, written to and killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
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
from tests.support.workers import WORKERS, Client, serving

MORTAL = "tests.support.mortal"


class Shop:
    """A market, two runs, an index that the first has made, and all who work on them."""

    def __init__(self, folder: Path, seed: int = 1) -> None:
        self.folder, self.index, self.dies = folder, str(folder / "index"), folder / "dies"
        self.runs = [make_run(folder / "one", "one", 32), make_run(folder / "two", "two", 48)]
        self.market = make_market(folder / "market")
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(indexing, "OnnxEncoder", SaltedEncoder)
            indexing.index_market(self.runs[0], self.market, self.index)
        self.client = Client(free_port())
        titles = {product["product_id"]: product["title"] for product in products()}
        self.seller = Seller(self.client, titles, seed=seed)
        self.killed: Counter[str] = Counter()

    @contextmanager
    def serving(
        self, at_once: int = 2_000, under: Sequence[str] = (), **environment: str
    ) -> Iterator[subprocess.Popen]:
        """Serve, with workers."""
        given = ("serve", self.runs[0], self.market.path, self.index, self.client.port, WORKERS, at_once)
        environment |= {"MERCATO_DIES": str(self.dies)}
        with serving(MORTAL, *given, client=self.client, under=under, **environment) as server:
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
