"""A market, its catalogue and an index know each other: a stranger among them is refused, a copy is none."""

from __future__ import annotations

import shutil
from contextlib import closing

import pytest

from mercato.catalogue.belonging import check_made_by, open_catalogue
from mercato.catalogue.fingerprints import products_fingerprint, run_fingerprint
from mercato.catalogue.identity import IDENTITY, Identity, Made, market_id
from mercato.catalogue.store import Catalogue
from mercato.data.market import CATALOGUE, Market
from mercato.errors import DamagedError, MercatoError
from mercato.retrieval.open import generations
from mercato.runs.folder import WEIGHTS
from tests.support.small_market import index_table, make_market, products


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / WEIGHTS).write_bytes(b"weights")
    return folder


@pytest.fixture
def make(tmp_path, run):
    """Make a market, with its index in it as `mercato index` builds it."""

    def make(name: str) -> Market:
        market = make_market(tmp_path / name, products()[:3])
        build(market, run)
        return market

    return make


def build(market, run, rows=None):
    made = Made(run_fingerprint(run), products_fingerprint(market), "2026-01-01", market_id(market.path))
    index_table(market.path, rows or products()[:3], made.fingerprint())


def opened(market, index=None):
    """The id of the catalogue that a server opens."""
    with closing(open_catalogue(market, str((index or market).path / "index"))) as catalogue:
        return catalogue.name


def test_they_name_each_other_from_the_first_start_on(make):
    market = make("one")
    known = Identity.of(market.path)
    assert known.catalogue is None
    catalogue = opened(market)
    assert Identity.of(market.path) == Identity(known.market, catalogue)
    assert opened(market) == catalogue
    assert Made.of(generations(market.path / "index").served).market == known.market


def test_the_index_of_another_market_is_refused_also_of_the_same_products(make):
    one, other = make("one"), make("other")
    with pytest.raises(MercatoError, match=r"other/index is the index of another market than .*one: .*`mercato index"):
        opened(one, other)
    assert not Identity.of(one.path).catalogue
    opened(one)


def test_the_catalogue_of_another_market_is_refused(make):
    one, other = make("one"), make("other")
    opened(other)
    shutil.copyfile(other.path / CATALOGUE, one.path / CATALOGUE)
    with pytest.raises(MercatoError, match=r"is the catalogue of another market than .*one"):
        opened(one)
    (one.path / CATALOGUE).unlink()
    mine = opened(one)
    shutil.copyfile(other.path / CATALOGUE, one.path / CATALOGUE)
    with pytest.raises(MercatoError, match=r"is not the catalogue that .*one was served with"):
        opened(one)
    assert Identity.of(one.path).catalogue == mine


def test_a_catalogue_that_is_gone_is_not_begun_anew(make, run):
    market = make("one")
    before = opened(market)
    (market.path / CATALOGUE).unlink()
    with pytest.raises(MercatoError, match=r"catalogue\.sqlite is missing.* remove .*identity\.json"):
        opened(market)
    assert not (market.path / CATALOGUE).exists()
    (market.path / IDENTITY).unlink()  # as the message says
    build(market, run)
    assert opened(market) != before


def test_a_copy_is_the_same_market_whatever_becomes_of_its_tables(make, tmp_path):
    market = make("one")
    opened(market)
    copy = Market.open(shutil.copytree(market.path, tmp_path / "copy"))
    opened(copy, market)
    make_market(tmp_path / "more", products()[:5])
    shutil.copyfile(tmp_path / "more" / "products.parquet", copy.path / "products.parquet")
    opened(copy, market)


@pytest.mark.parametrize("served", [True, False])
def test_a_copy_without_the_file_is_the_same_market(make, tmp_path, served):
    market = make("one")
    if served:
        opened(market)
    copy = Market.open(shutil.copytree(market.path, tmp_path / "copy"))
    (copy.path / IDENTITY).unlink()
    if served:  # its catalogue names it, whatever its tables become
        make_market(tmp_path / "more", products()[:5])
        shutil.copyfile(tmp_path / "more" / "products.parquet", copy.path / "products.parquet")
    opened(copy)
    assert Identity.of(copy.path).market == Identity.of(market.path).market


def test_what_was_made_before_there_were_ids_is_taken_at_its_word(tmp_path):
    market = make_market(tmp_path / "old", products()[:3])
    with closing(Catalogue.open(market.path / CATALOGUE)) as catalogue:
        before = catalogue.name
    assert opened(market) == before
    assert Identity.of(market.path).catalogue == before
    index_table(market.path, products()[:3], "run table moment")
    assert opened(market) == before


def test_ranking_and_tuning_refuse_another_runs_index_and_another_markets(make, run, tmp_path):
    one, other = make("one"), make("other")
    url = str(one.path / "index")
    served = generations(url).served
    check_made_by(run, one, url, served)
    with pytest.raises(MercatoError, match="the index of another market"):
        check_made_by(run, other, url, served)
    second = tmp_path / "second"
    second.mkdir()
    (second / WEIGHTS).write_bytes(b"others")
    with pytest.raises(MercatoError, match=r"was not made by .*second: .*`mercato index .*second --market"):
        check_made_by(second, one, url, served)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"market": ""}', '{"market": 1, "catalogue": null}'])
def test_an_identity_that_cannot_be_read_is_named(tmp_path, content):
    (tmp_path / IDENTITY).write_text(content)
    with pytest.raises(DamagedError, match=r"identity\.json .*remove it"):
        Identity.of(tmp_path)


def test_a_folder_that_may_not_be_written_gets_no_id(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError

    monkeypatch.setattr(Identity, "write", refuse)
    assert market_id(tmp_path) == ""
