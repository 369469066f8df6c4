"""`mercato bench serve`: the whole request over HTTP, of a server as a user starts it, at the size of a real shop.

A market of any size is made from a given one and indexed. A load generator in a process of its own then asks the server
as one client and as four, each of which waits for its answers; at 70 % of the rate that those four reached, waiting for
none (see `load`); and so once more with products written beside. Server and generator share the machine.
"""

from __future__ import annotations

import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson

from mercato.benchmarks.machine import cpu
from mercato.benchmarks.serve import load
from mercato.benchmarks.serve.index import big_index
from mercato.benchmarks.serve.load import Request, in_another_process
from mercato.benchmarks.serve.market import big_market
from mercato.benchmarks.serve.page import page
from mercato.benchmarks.serve.parts import time_parts
from mercato.benchmarks.serve.report import BESIDE, MANY, ONE, OPEN, Phase, budget, measurements, table
from mercato.benchmarks.serve.server_process import Server, server
from mercato.benchmarks.serve.traffic import Traffic
from mercato.data.market import Market
from mercato.files import write_atomic
from mercato.progress import note
from mercato.ranking.ranker import Ranker

__all__ = ["run", "table"]

MARKET, INDEX, QUERIES, LOG = "market", "index", "queries.txt", "server.log"  # in the folder that is kept
REPORT, PAGE = "bench-serve.json", "bench-serve.html"

CLIENTS = 4  # whose rate is the server's capacity
LOAD = 0.7  # of the capacity, in the open loop
UPSERTS = 20.0  # a second
SECONDS = 10.0  # a phase

_MOST = 3_000  # requests a second that a closed loop has ready
_APART = 20  # requests between a page and the next in a closed loop; in an open one, those of a second
_WARM = 300  # searches before anything is measured
_OWN_SECONDS = 2.0
_PARTS = 1_800  # searches in process
_PEER = 2_000  # queries left for others to be measured with


def run(
    run: Path,
    market: Market,
    out: Path,
    products: int = 100_000,
    workers: int = 0,
    seconds: float = SECONDS,
    seed: int = 0,
) -> dict[str, Any]:
    """Measure a run's server on so many products made from a market; a JSON-able report, also written to `out`.

    `out` keeps the market, its index, queries to ask another engine, and what the server said. What is whole there and
    was made from the same market, run, size and seed is used again.

    Raises:
        MercatoError: `out` holds what was made from something else, or the server does not start.
    """
    machine = {"cpu": cpu(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}  # of others, before
    out.mkdir(parents=True, exist_ok=True)
    big = big_market(market, out / MARKET, products, seed)
    built = big_index(run, big, out / INDEX)
    traffic = Traffic(big, seed)
    write_atomic(out / QUERIES, "".join(f"{query}\n" for query in traffic.queries(_PEER)))
    note("  starting the server: once to fill the catalogue, once to be measured")
    with server(run, big, out / INDEX, workers, out / LOG) as filling:
        first_start_s = filling.start_s
    with server(run, big, out / INDEX, workers, out / LOG) as measured:
        # Beside it while it is idle, right before one client asks it: a machine is not the same a minute later.
        parts = in_another_process(time_parts, run, big, out / INDEX, traffic.first_pages(_PARTS))
        phases = _phases(measured, traffic, seconds)
        memory = measured.memory()
        content = measured.search({"query": "a"})
    own_per_s = load.own_rate(content, traffic.searches(int(_MOST * _OWN_SECONDS), _APART), CLIENTS, _OWN_SECONDS)
    report = {
        "benchmark": "serve",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "products": products,
        "workers": workers,
        "ranked": Ranker.of_run(run) is not None,
        "seconds": seconds,
        "seed": seed,
        "built": built,
        "first_start_s": round(first_start_s, 2),
        "start_s": round(measured.start_s, 2),
        "memory": memory,
        "generator_per_s": round(own_per_s, 1),
        **measurements(phases, parts),
    }
    report |= budget(report)
    write_atomic(out / REPORT, orjson.dumps(report, option=orjson.OPT_INDENT_2))
    write_atomic(out / PAGE, page(report))
    return report


def _phases(server: Server, traffic: Traffic, seconds: float) -> dict[str, Phase]:
    def closed(clients: int) -> Phase:
        note(f"  closed loop, clients: {clients}")
        plan = traffic.searches(int(_MOST * seconds) + 1, _APART)
        outcomes, took = in_another_process(load.closed_loop, server.address, plan, clients, seconds)
        return Phase(outcomes, sum(outcome.answer == "answered" for outcome in outcomes) / took)

    def opened(rate: float, *writes: list[Request]) -> Phase:
        note(f"  open loop, {rate:.0f} searches/s" + " and upserts" * len(writes))
        plan = traffic.searches(round(rate * seconds) + 1, max(1, round(rate)), rate)
        return Phase(in_another_process(load.open_loop, server.address, plan, *writes), rate)

    in_another_process(load.closed_loop, server.address, traffic.warming(_WARM), CLIENTS, float("inf"))
    alone, capacity = closed(1), closed(CLIENTS)
    rate = LOAD * capacity.per_s
    upserts = traffic.upserts(round(UPSERTS * seconds) + 1, UPSERTS, server.key)
    return {ONE: alone, MANY: capacity, OPEN: opened(rate), BESIDE: opened(rate, upserts)}
