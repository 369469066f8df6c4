"""A simulated market: a catalogue with images, its event log and its judgments, from stated mechanisms and a seed.

No public log has search → click → message → reply, so this one is invented, and says so: `docs/simulation.md` lists
every mechanism with its number. Nothing here knows any model, and no model may import it.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mercato.data.market import MarketConfig, atomic_market, write_market_toml
from mercato.errors import MercatoError
from mercato.progress import track
from mercato.simulation.engine import Engine
from mercato.simulation.images import Look, draw_images
from mercato.simulation.listings import Catalogue, make_catalogue, products_table
from mercato.simulation.log import when_sold, write_events
from mercato.simulation.queries import intents_table, make_demand
from mercato.simulation.raters import judge
from mercato.simulation.truth import true_products, true_queries

__all__ = ["NAME", "SIZES", "Size", "simulate"]

NAME = "Plaza (simulated)"  # in market.toml


@dataclass(frozen=True)
class Size:
    """How much of everything."""

    products: int
    types: int  # how many of the product types exist
    intents: int  # with attributes, besides one for each type
    sessions: int
    judged_queries: int


SIZES = {
    "tiny": Size(300, 21, 60, 2_500, 40),
    "demo": Size(6_000, 82, 260, 105_000, 260),
    "study": Size(50_000, 82, 3_000, 400_000, 800),
}
_PART = 1_000  # products in one Parquet part and one drawing job
_DRAWERS = 2

_Job = tuple[list[int], list[Look], int]


def simulate(folder: Path, size: str, seed: int) -> None:
    """Write a whole simulated market; the same size and seed give the same tables, byte for byte of every field.

    `folder/truth/` holds what is hidden from models (true types, colours, fairness of prices, the wish behind a query),
    for tests and diagnosis.

    Raises:
        MercatoError: `size` is not one of `SIZES`; or `folder` holds something else than a market, or one that is
            served or holds what the API wrote.
    """
    if size not in SIZES:
        raise MercatoError(f"size {size!r} is not one of {', '.join(SIZES)}")
    amount = SIZES[size]
    goods, wishes, log, raters, sold = (np.random.default_rng([seed, part]) for part in range(5))
    with atomic_market(folder) as fresh:
        catalogue = make_catalogue(amount.products, amount.types, goods)
        with _drawn(catalogue, seed) as parts:
            engine = Engine(catalogue, when_sold(catalogue, sold))
            demand = make_demand(catalogue, amount.intents, wishes)
            write_events(fresh / "events", catalogue, engine, demand, amount.sessions, log)
            judgments = judge(catalogue, engine, demand, amount.judged_queries, raters)
            (fresh / "products").mkdir()
            for number, images in enumerate(track(parts, "drawing the images", -(-amount.products // _PART))):
                start = number * _PART
                table = products_table(catalogue, start, start + len(images), images)
                pq.write_table(table, fresh / "products" / f"part-{number:03d}.parquet", compression="zstd")
        (fresh / "truth").mkdir()
        pq.write_table(true_products(catalogue), fresh / "truth" / "products.parquet")
        pq.write_table(true_queries(demand, engine), fresh / "truth" / "queries.parquet")
        pq.write_table(judgments, fresh / "judgments.parquet")
        pq.write_table(intents_table(demand), fresh / "intents.parquet")
        write_market_toml(fresh, MarketConfig(name=NAME, currency="USD", relevant_grade=1.0))


@contextmanager
def _drawn(catalogue: Catalogue, seed: int) -> Iterator[Iterator[list[list[bytes]]]]:
    """The images part by part, drawn by worker processes meanwhile (in this one where there is a single part)."""
    jobs = [
        ([seed, 7, row], list(listing.looks), int(catalogue.images[row]))
        for row, listing in enumerate(catalogue.listings)
    ]
    parts = [jobs[start : start + _PART] for start in range(0, len(jobs), _PART)]
    if len(parts) == 1:
        yield map(_draw, parts)
        return
    with ProcessPoolExecutor(_DRAWERS, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(_draw, part) for part in parts]
        yield (_result(future, part) for future, part in zip(futures, parts, strict=True))


def _result(future: Future[list[list[bytes]]], part: list[_Job]) -> list[list[bytes]]:
    """What a worker drew; where workers cannot start (a script from stdin or without a main guard), draw here."""
    try:
        return future.result()
    except BrokenProcessPool:
        return _draw(part)


def _draw(jobs: list[_Job]) -> list[list[bytes]]:
    return [draw_images(*job) for job in jobs]
