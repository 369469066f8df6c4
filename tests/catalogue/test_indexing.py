from __future__ import annotations

from datetime import UTC, datetime

from mercato.catalogue.indexing import index_market
from tests.support.moments import moments

__all__ = ["moments"]


def test_listings_are_indexed_at_the_age_they_had_at_the_moment_asked_for(tiny_run, tiny_market, tmp_path, moments):
    spring = datetime(2025, 4, 1, tzinfo=UTC)
    assert index_market(tiny_run, tiny_market, str(tmp_path / "index"), as_of=spring)["count"] == 300
    assert moments == {spring}
