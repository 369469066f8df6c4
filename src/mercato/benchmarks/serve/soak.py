"""`mercato bench soak`: a server at 80 % of its capacity for minutes, with products written and deleted beside.

What is asked is what `mercato bench serve` asks, of a market made in the same way. The capacity is what four clients
come to while the writes go on; searches are then due at 80 % of that, waiting for none. Meanwhile it is noted what each
of the server's processes weighs and how many files it has open: neither may grow.
"""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from rich.console import Group
from rich.table import Table

from mercato.benchmarks.machine import cpu
from mercato.benchmarks.serve import load
from mercato.benchmarks.serve.benchmark import CLIENTS, INDEX, LOG, MARKET
from mercato.benchmarks.serve.index import big_index
from mercato.benchmarks.serve.load import Outcome, in_another_process
from mercato.benchmarks.serve.market import big_market
from mercato.benchmarks.serve.processes import memory, open_files, tree
from mercato.benchmarks.serve.server_process import server
from mercato.benchmarks.serve.traffic import DELETE, UPSERT, Traffic
from mercato.data.market import Market
from mercato.disk import bytes_in
from mercato.files import write_atomic
from mercato.progress import note

REPORT = "bench-soak.json"  # in the folder that is kept

LOAD = 0.8  # of the capacity
UPSERTS, DELETES = 20.0, 2.0  # a second
SEARCHES = "search"

_POOL = 1_000  # products that are written and deleted
_CAPACITY_SECONDS = 15.0
_MOST = 1_000  # requests a second that the closed loop has ready
_WARM = 300
_LOOK_SECONDS = 5.0  # between two looks at the processes
_SETTLED = 0.3  # of the time, after which memory should not grow any more: caches are full, an index was compacted


@dataclass
class _Process:
    """What was seen of one: at which second it weighed so many megabytes, and its open files."""

    pid: int
    at: list[float] = field(default_factory=list)
    mb: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)

    def figures(self, seconds: float) -> dict[str, Any]:
        at, mb = np.array(self.at), np.array(self.mb)
        late = at >= _SETTLED * seconds
        lasting = late.sum() > 2 and at[-1] - at[0] > seconds / 2  # not one that compacts an index and ends
        slope = float(np.polyfit(at[late], mb[late], 1)[0]) * 60 if lasting else None
        return {
            "pid": self.pid,
            "start_mb": self.mb[0],
            "highest_mb": max(self.mb),
            "end_mb": self.mb[-1],
            "mb_per_minute": None if slope is None else round(slope, 2),
            "start_files": self.files[0],
            "most_files": max(self.files),
            "end_files": self.files[-1],
        }


def run(
    run: Path,
    market: Market,
    out: Path,
    products: int = 10_000,
    workers: int = 0,
    minutes: float = 10.0,
    rate: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Load a run's server on so many products made from a market; a JSON-able report, also written to `out`.

    `rate` is the searches a second; None: 80 % of the capacity, which is then measured. `out` is kept, and used again,
    as by `benchmark.run`.

    Raises:
        MercatoError: `out` holds what was made from something else, or the server does not start.
    """
    machine = {"cpu": cpu(), "cores": os.cpu_count(), "load": round(os.getloadavg()[0], 2)}  # of others, before
    out.mkdir(parents=True, exist_ok=True)
    big = big_market(market, out / MARKET, products, seed)
    big_index(run, big, out / INDEX)
    traffic, seconds, capacity = Traffic(big, seed), 60 * minutes, None
    folders = (out / MARKET, out / INDEX)
    with server(run, big, out / INDEX, workers, out / LOG) as served:

        def changes(seconds: float) -> list[load.Request]:
            of_all = UPSERTS + DELETES
            return traffic.changes(round(of_all * seconds), of_all, served.key, DELETES / of_all, _POOL)

        in_another_process(load.closed_loop, served.address, traffic.warming(_WARM), CLIENTS, float("inf"))
        if rate is None:
            note(f"  closed loop, clients: {CLIENTS}, and writes")
            plan = traffic.searches(int(_MOST * _CAPACITY_SECONDS), 20)
            with _beside(load.open_loop, served.address, changes(_CAPACITY_SECONDS)):
                done, took = in_another_process(load.closed_loop, served.address, plan, CLIENTS, _CAPACITY_SECONDS)
            capacity = sum(outcome.answer == "answered" for outcome in done) / took
            rate = LOAD * capacity
        note(f"  {minutes:g} minutes, {rate:.0f} searches/s and writes")
        searches = traffic.searches(round(rate * seconds), max(1, round(rate)), rate)
        disk = [sum(map(bytes_in, folders))]
        with _watched(served.pid) as processes:
            outcomes = in_another_process(load.open_loop, served.address, searches, changes(seconds))
        disk.append(sum(map(bytes_in, folders)))
    rows = [_row(kind, outcomes) for kind in (SEARCHES, UPSERT, DELETE)]
    report: dict[str, Any] = {
        "benchmark": "soak",
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine,
        "products": products,
        "workers": workers,
        "minutes": minutes,
        "seed": seed,
        "capacity_per_s": None if capacity is None else round(capacity, 1),
        "rate_per_s": round(rate, 1),
        "generator_late_p99_ms": _percentile([outcome.late for outcome in outcomes], 99),
        "errors": sum(row["refused"] + row["failed"] for row in rows),
        "rows": rows,
        "processes": [process.figures(seconds) for process in processes if len(process.at) > 1],
        "disk_mb": [round(size / 1e6, 1) for size in disk],
    }
    write_atomic(out / REPORT, orjson.dumps(report, option=orjson.OPT_INDENT_2))
    return report


def table(report: dict[str, Any]) -> Group:
    """Lay a report out for people."""
    machine = report["machine"]
    asked = Table(
        title=f"{report['minutes']:g} minutes at {report['rate_per_s']:g} searches/s, {UPSERTS:g} upserts/s and"
        f" {DELETES:g} deletes/s: errors: {report['errors']}",
        caption=" · ".join(
            [
                f"{report['products']:,} products, workers: {report['workers']}",
                f"{machine['cores']} × {machine['cpu']}, load {machine['load']:.1f}",
                report["date"][:10],
                f"capacity {report['capacity_per_s'] or '–'}/s",
                f"the generator sent {report['generator_late_p99_ms']} ms late (p99)",
                f"disk {report['disk_mb'][0]} → {report['disk_mb'][1]} MB",
            ]
        ),
    )
    for heading in ("", "asked", "answered", "refused", "failed", "no page", "p50 ms", "p99 ms"):
        asked.add_column(heading, justify="right" if heading else "left")
    for row in report["rows"]:
        asked.add_row(*(str(value) for value in row.values()))
    weighed = Table(title="Each process: memory that no file backs, and open files")
    for heading in ("pid", "start MB", "highest", "end", "MB a minute", "files at the start", "most", "end"):
        weighed.add_column(heading, justify="right")
    for process in report["processes"]:
        weighed.add_row(*(str(value) for value in process.values()))
    return Group(asked, weighed)


@contextmanager
def _beside(*work: Any) -> Iterator[None]:
    """Do it in another process while a block runs."""
    thread = threading.Thread(target=in_another_process, args=work)
    thread.start()
    try:
        yield
    finally:
        thread.join()


@contextmanager
def _watched(root: int) -> Iterator[list[_Process]]:
    """See what a process and all under it weigh, until the block ends."""
    seen: dict[int, _Process] = {}
    ended, start = threading.Event(), time.monotonic()
    processes: list[_Process] = []

    def look() -> None:
        for pid in tree(root):
            weighs, files = memory([pid]), open_files(pid)
            if weighs and weighs["pss_anonymous_mb"] and files is not None:
                if pid not in seen:
                    processes.append(seen.setdefault(pid, _Process(pid)))
                seen[pid].at.append(time.monotonic() - start)
                seen[pid].mb.append(weighs["pss_anonymous_mb"])
                seen[pid].files.append(files)

    def work() -> None:
        look()
        while not ended.wait(_LOOK_SECONDS):
            look()
        look()

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield processes
    finally:
        ended.set()
        thread.join()


def _row(kind: str, outcomes: Sequence[Outcome]) -> dict[str, Any]:
    own = [each for each in outcomes if kind in each.kind or (kind == SEARCHES and not {UPSERT, DELETE} & {*each.kind})]
    answers = Counter(each.answer for each in own)
    seconds = [each.seconds for each in own if each.answer == "answered"]
    return {
        "what": kind,
        "asked": len(own),
        "answered": answers["answered"],
        "refused": answers["refused"],
        "failed": answers["failed"],
        "no_page": answers["no page"],
        "p50_ms": _percentile(seconds, 50),
        "p99_ms": _percentile(seconds, 99),
    }


def _percentile(seconds: Sequence[float], percent: float) -> float | None:
    return round(float(np.percentile(seconds, percent)) * 1000, 1) if seconds else None
