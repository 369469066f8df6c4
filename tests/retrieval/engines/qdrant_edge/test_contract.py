"""The embedded engine keeps the contract: with products in the log, and with all of them sealed."""

from __future__ import annotations

from itertools import count
from threading import current_thread, main_thread

import pytest

from mercato.retrieval.engines.qdrant_edge.index import EdgeIndex
from mercato.retrieval.testing import IndexContract


class TestFresh(IndexContract):
    @pytest.fixture(scope="class")
    def url(self, tmp_path_factory):
        return str(tmp_path_factory.mktemp("contract") / "index")


class TestSealed(IndexContract):
    rounds = 3

    @pytest.fixture(scope="class")
    def url(self, tmp_path_factory):
        return str(tmp_path_factory.mktemp("contract") / "index")

    @pytest.fixture(autouse=True)
    def compacted(self, monkeypatch):
        """An upsert is followed by a compaction: always by one thread alone, seldom where several write."""
        upsert, every = EdgeIndex.upsert, count()

        def and_compact(index, records):
            upsert(index, records)
            if current_thread() is main_thread() or next(every) % 10 == 0:
                index.compact()

        monkeypatch.setattr(EdgeIndex, "upsert", and_compact)
