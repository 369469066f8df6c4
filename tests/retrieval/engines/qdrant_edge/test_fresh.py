"""Fresh rows beside their writer: what a search has taken stays as it was, whatever is written meanwhile."""

from __future__ import annotations

import threading

import numpy as np

from mercato.retrieval.engines.qdrant_edge.fresh import Fresh
from mercato.retrieval.engines.qdrant_edge.log import Entry


def entry(number: int) -> Entry:
    return Entry(f"p{number}", np.ones(2, np.float32), np.array([7], np.uint32), np.ones(1, np.float32), {"price": 1.0})


def test_what_was_alive_stays_so_for_who_has_asked():
    fresh = Fresh(2)
    for number in range(100):
        fresh.add(entry(number))
    alive_N, vectors_N = fresh.alive(), fresh.vectors()
    for number in range(100):
        fresh.add(entry(number))
    assert alive_N.all() and len(alive_N) == len(vectors_N) == 100
    assert np.flatnonzero(fresh.alive()).tolist() == list(range(100, 200))


def test_a_row_dies_once_the_one_that_replaces_it_is_found(monkeypatch):
    fresh, living = Fresh(2), []
    fresh.add(entry(1))
    kill = Fresh._kill
    monkeypatch.setattr(Fresh, "_kill", lambda self, row: living.append(self.alive().tolist()) or kill(self, row))
    fresh.add(entry(1))
    assert living == [[True, True]] and fresh.alive().tolist() == [False, True] and fresh.living == 1


def test_rows_that_are_found_while_others_die_are_there():
    fresh, ended = Fresh(2), threading.Event()

    def rewrite() -> None:
        for number in range(20_000):
            fresh.add(entry(number % 50))
        ended.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    while not ended.is_set():
        rows_F = np.flatnonzero(fresh.alive())
        assert len(rows_F) == 0 or 0 <= rows_F.min() <= rows_F.max() < len(fresh)
    writer.join()
