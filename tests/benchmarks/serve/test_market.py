from __future__ import annotations

from collections import Counter

import pytest

from mercato.benchmarks.serve import market as module
from mercato.benchmarks.serve.market import MADE_FROM, big_market
from mercato.data.checking import check
from mercato.data.market import Market
from mercato.errors import MercatoError
from tests.support.small_market import make_market, products


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return make_market(tmp_path_factory.mktemp("given") / "market")


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch):
    monkeypatch.setattr(module, "PART", 60)


def rows(market: Market) -> list[dict]:
    return market.arrow("products").to_pylist()


def test_products_are_varied_within_their_kind(market, tmp_path):
    made = big_market(market, tmp_path / "big", 150, seed=1)
    assert len(made.files("products")) == 3
    got, given = rows(made), products()
    assert len({row["product_id"] for row in got}) == 150
    words = {category: set() for category in {row["category"] for row in given}}
    for row in given:
        words[row["category"]] |= set(row["title"].split())
    assert all(set(row["title"].split()) <= words[row["category"]] for row in got)
    places = {(row["country"], row["seller_id"]) for row in given}
    assert {(row["country"], row["seller_id"]) for row in got} <= places
    assert all(abs(row["latitude"] - (51.5 if row["country"] == "gb" else 40.4)) < 1 for row in got)
    assert {row["images"] for row in got} == {None}
    assert len({row["price"] for row in got}) > 100 and len({row["title"] for row in got}) > 12
    of = Counter(row["category"] for row in got)
    assert of.keys() == words.keys() and of["Home > Lighting"] == 25  # as common as they were
    assert all(row["created_at"] <= max(each["created_at"] for each in given) for row in got)
    assert [problem for problem in check(made.path) if problem.severity == "error"] == []


def test_the_same_seed_makes_the_same_and_another_another(market, tmp_path):
    one, same, other = (big_market(market, tmp_path / name, 70, seed) for name, seed in (("a", 1), ("b", 1), ("c", 2)))
    assert rows(one) == rows(same) != rows(other)


def test_what_is_there_is_used_again_and_only_for_what_it_was_made_from(market, tmp_path):
    big_market(market, tmp_path / "big", 70, 1)
    file = tmp_path / "big" / "products" / "part-0000.parquet"
    written = file.stat().st_mtime_ns
    assert big_market(market, tmp_path / "big", 70, 1).path == tmp_path / "big"
    assert file.stat().st_mtime_ns == written
    for products_, seed in ((71, 1), (70, 2)):
        with pytest.raises(MercatoError, match="give another --out"):
            big_market(market, tmp_path / "big", products_, seed)
    (tmp_path / "big" / MADE_FROM).unlink()
    with pytest.raises(MercatoError, match="give another --out"):
        big_market(market, tmp_path / "big", 70, 1)


def test_half_a_market_is_none(market, tmp_path, monkeypatch):
    made = module._Variations.make

    def dies(self, numbers, random):
        if numbers[0]:
            raise KeyboardInterrupt
        return made(self, numbers, random)

    monkeypatch.setattr(module._Variations, "make", dies)
    with pytest.raises(KeyboardInterrupt):
        big_market(market, tmp_path / "big", 70, 1)
    assert list(tmp_path.iterdir()) == []
