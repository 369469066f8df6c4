from __future__ import annotations

import pytest

from mercato.retrieval.testing import IndexContract


class TestQdrantEdge(IndexContract):
    @pytest.fixture(scope="class")
    def url(self, tmp_path_factory):
        return str(tmp_path_factory.mktemp("contract") / "index")
