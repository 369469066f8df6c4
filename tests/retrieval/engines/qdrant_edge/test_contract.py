"""The embedded engine keeps the contract: with products in the log, and with all of them sealed."""

from __future__ import annotations

import pytest

from mercato.retrieval.engines.qdrant_edge.index import EdgeIndex
from mercato.retrieval.testing import IndexContract


class TestFresh(IndexContract):
    @pytest.fixture(scope="class")
    def url(self, tmp_path_factory):
        return str(tmp_path_factory.mktemp("contract") / "index")


class TestSealed(IndexContract):
    @pytest.fixture(scope="class")
    def url(self, tmp_path_factory):
        return str(tmp_path_factory.mktemp("contract") / "index")

    @pytest.fixture(autouse=True)
    def compacted(self, monkeypatch):
        """Every upsert is followed by a compaction."""
        upsert = EdgeIndex.upsert

        def and_compact(index, records):
            upsert(index, records)
            index.compact()

        monkeypatch.setattr(EdgeIndex, "upsert", and_compact)
