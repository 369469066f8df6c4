from __future__ import annotations

from datetime import UTC, datetime

from typer.testing import CliRunner

from mercato.catalogue.indexing import index_market
from mercato.cli import app
from tests.support.moments import moments

__all__ = ["moments"]


def test_listings_are_indexed_at_the_age_they_had_at_the_moment_asked_for(tiny_run, tiny_market, tmp_path, moments):
    spring = datetime(2025, 4, 1, tzinfo=UTC)
    assert index_market(tiny_run, tiny_market, str(tmp_path / "index"), as_of=spring)["count"] == 300
    assert moments == {spring}


def test_the_verb_takes_the_moment_in_utc(tiny_run, tiny_market, tmp_path, moments):
    verb = ["index", str(tiny_run), "--market", str(tiny_market.path), "--to", str(tmp_path / "index")]
    done = CliRunner().invoke(app, [*verb, "--as-of", "2025-04-01"])
    assert done.exit_code == 0, done.output
    assert moments == {datetime(2025, 4, 1, tzinfo=UTC)}
