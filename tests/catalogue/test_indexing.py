from __future__ import annotations

from contextlib import closing
from datetime import UTC, datetime

import pytest
from typer.testing import CliRunner

from mercato.catalogue import indexing
from mercato.catalogue.indexing import index_market
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.catalogue.worker import IngestionWorker, Target
from mercato.catalogue.written import take_written
from mercato.cli import app
from mercato.data.market import CATALOGUE, Market
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import open_index
from tests.support.moments import moments
from tests.support.salted_runs import SaltedEncoder, make_run
from tests.support.small_market import make_market
from tests.support.stored import stored

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


@pytest.fixture
def salted(tmp_path, monkeypatch):
    """A run, and a market whose catalogue holds 48 products of the table."""
    monkeypatch.setattr(indexing, "OnnxEncoder", SaltedEncoder)
    market = make_market(tmp_path / "market")
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        seed(catalogue, market)
        yield make_run(tmp_path / "run", "one", 32), market, catalogue


def best(index, run, text: str) -> tuple[str, float]:
    (vector,) = SaltedEncoder(run).encode_queries([text])
    hit = index.search(Expression(vector=vector), 1)[0]
    return hit.product_id, round(hit.cosine, 4)


@pytest.mark.parametrize("mined", [False, True])
def test_the_index_is_of_the_catalogue_as_it_is_now(salted, monkeypatch, mined):
    run, market, catalogue = salted
    monkeypatch.setattr("mercato.catalogue.written.PAGE", 2)
    catalogue.products.upsert([stored("n1", "a first word"), stored("n2", "to be deleted")])
    if mined:
        take_written(market.path)
    catalogue.products.upsert([stored(f"m{number}", f"orange hammock {number}") for number in range(5)])
    catalogue.products.upsert([stored("p03", "purple xylophone")])
    for key in ("n2", "p07"):
        catalogue.products.delete(key)
    url = str(market.path / "index")
    assert index_market(run, Market.open(market.path), url)["count"] == 48 + 1 + 5 - 1
    with open_index(url) as index:
        for key, title in (("n1", "a first word"), ("m4", "orange hammock 4"), ("p03", "purple xylophone")):
            assert best(index, run, title) == (key, 1.0)
        assert not {hit.product_id for hit in index.search(Expression(), 100)} & {"n2", "p07"}


def test_a_server_embeds_nothing_again_but_what_was_left_out_or_came_later(salted, caplog):
    run, market, catalogue = salted
    catalogue.products.upsert([stored("n1", "a first word"), stored("n2", "unembeddable")])
    url = str(market.path / "index")
    assert index_market(run, market, url)["count"] == 49
    assert "product n2 is left out" in caplog.text
    catalogue.outbox.ack(catalogue.outbox.claim("w", 100))
    assert catalogue.outbox.depth() == 0
    catalogue.products.upsert([stored("n3", "a later word")])
    with open_index(url) as index:
        IngestionWorker(catalogue, [], market.path, "w").retarget([Target(SaltedEncoder(run), index)])
    assert {job.product_id for job in catalogue.outbox.claim("w", 100)} == {"n2", "n3"}


def test_what_cannot_be_indexed_is_left_out_too(salted, monkeypatch):
    run, market, catalogue = salted
    catalogue.products.upsert([stored("n1", "a first word"), stored("n2", "a word")])
    made = indexing.record_from_product

    def refusing(product, vector):
        if product["product_id"] == "n1":
            raise indexing.MercatoError("product n1: no")
        return made(product, vector)

    monkeypatch.setattr(indexing, "record_from_product", refusing)
    assert index_market(run, market, str(market.path / "index"))["count"] == 49
    with open_index(market.path / "index") as index:
        read = catalogue.settings.get(f"read {index.fingerprint}")
    assert read == '[50,["n1"]]'
