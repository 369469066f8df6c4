"""Query rules over pages: what is pinned comes first, what is buried last, whatever changes in between."""

from __future__ import annotations

import logging
import shutil
from contextlib import closing
from uuid import uuid4

import pytest
import tomli_w
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mercato.catalogue.products import StoredProduct
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.data.market import Market
from mercato.data.query_rules import RULES
from mercato.retrieval.expression import Filters
from mercato.retrieval.open import ENGINES, build_index, open_index
from mercato.retrieval.protocol import record_from_product
from mercato.search.pipeline import Searcher
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.search.request import SearchRequest
from mercato.search.rules import MarketRules
from tests.support import reference_engine
from tests.support.small_market import TrigramEncoder, make_market, products

POLICY = RetrievalPolicy(pages=(Effort(ef_search=8, candidates=6), Effort(ef_search=8, candidates=1000)))
DEEP = RetrievalPolicy(pages=POLICY.pages[1:])  # a rule may make a page dig deeper, which is another order


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """A market's folder, its index and its catalogue."""
    market = make_market(tmp_path_factory.mktemp("rules") / "market")
    copy = Market.open(shutil.copytree(market.path, tmp_path_factory.mktemp("served") / "market"))
    encoder, rows, url = TrigramEncoder(), products(), f"memory://{uuid4()}"
    with pytest.MonkeyPatch.context() as patch, closing(Catalogue.open(copy.path / "catalogue.sqlite")) as catalogue:
        patch.setitem(ENGINES, "memory", reference_engine.MODULE)
        seed(catalogue, copy)
        build_index(url, map(record_from_product, rows, encoder.encode_products(rows)), encoder.dimension)
        with open_index(url) as index:
            yield copy.path, index, catalogue


@pytest.fixture
def search(shop):
    """Search under rules, which `ruled` writes."""
    folder, index, catalogue = shop
    (folder / RULES).unlink(missing_ok=True)
    return Searcher(TrigramEncoder(), index, catalogue, POLICY, rules=MarketRules(folder)).search


@pytest.fixture
def ruled(shop):
    return lambda *rules: write(shop[0], *rules)


def write(folder, *rules):
    fresh = folder / "fresh.toml"
    fresh.write_text(tomli_w.dumps({"rules": [*rules]}))
    fresh.replace(folder / RULES)  # another file is noticed however soon it comes


def ids(page):
    return [hit.product["product_id"] for hit in page.hits]


def pages(search, between=lambda page: None, **wanted):
    """All pages, with something done after each."""
    found = [search(SearchRequest(**wanted))]
    while found[-1].cursor:
        between(found[-1])
        found.append(search(SearchRequest(**wanted, cursor=found[-1].cursor)))
    return found


numbers = st.lists(st.integers(0, 50).map("p{:02}".format), max_size=6, unique=True)  # 48 of them exist


@st.composite
def rules(draw):
    pin, bury = draw(numbers), draw(numbers)
    bury = [each for each in bury if each not in pin]
    query = draw(st.sampled_from(["red chair", "Red  CHAIR", "blue sofa"]))
    return [{"query": query, "pin": pin, "bury": bury}] if pin or bury else []


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(between=st.lists(rules(), min_size=1, max_size=8), page_size=st.integers(1, 13))
def test_whatever_rules_change_between_pages_nothing_is_lost_or_repeated(shop, between, page_size):
    folder, index, catalogue = shop
    write(folder, *between[0])
    search = Searcher(TrigramEncoder(), index, catalogue, POLICY, rules=MarketRules(folder)).search
    coming, shown = iter(between[1:]), []

    def change(page):
        shown.extend(ids(page))
        if (changed := next(coming, None)) is not None:
            write(folder, *changed)

    found = pages(search, change, query="red chair", page_size=page_size)
    listed = [product_id for page in found for product_id in ids(page)]
    assert len(listed) == len({*listed}) == 48
    positions = [hit.position for page in found for hit in page.hits]
    assert positions == [*range(1, 49)] and {page.total for page in found} == {48}


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(pin=numbers, bury=numbers, page_size=st.integers(1, 13), query=st.sampled_from(["red chair", "REd  chair"]))
def test_the_pinned_come_first_in_their_order_and_the_buried_last(shop, pin, bury, page_size, query):
    folder, index, catalogue = shop
    bury = [each for each in bury if each not in pin]
    write(folder, *([{"query": "Red chair", "pin": pin, "bury": bury}] if pin or bury else []))
    searcher = Searcher(TrigramEncoder(), index, catalogue, DEEP, rules=MarketRules(folder))
    plain = [
        each
        for page in pages(Searcher(TrigramEncoder(), index, catalogue, DEEP).search, query=query, page_size=page_size)
        for each in ids(page)
    ]
    found = pages(searcher.search, query=query, page_size=page_size)
    listed = [product_id for page in found for product_id in ids(page)]
    there = [each for each in pin if each in plain]
    buried = [each for each in plain if each in bury]
    assert listed == there + [each for each in plain if each not in {*pin, *bury}] + buried
    placed_by = [hit.placed_by for page in found for hit in page.hits]
    assert placed_by == ["pin"] * len(there) + [None] * (48 - len(there))


def test_a_pin_is_shown_where_retrieval_did_not_find_it(search, ruled):
    """With both scores, and as what it is: nothing found or ranked it."""
    request = SearchRequest(query="red chair", page_size=5)
    unfound = ids(pages(search, query="red chair", page_size=48)[0])[-1]
    ruled({"query": "red chair", "pin": [unfound]})
    first, second, *_ = search(request).hits
    assert (first.product["product_id"], first.position, first.placed_by) == (unfound, 1, "pin")
    assert (first.hit.found_by, first.rank_score, first.places) == ((), None, None) and first.hit.cosine != 0
    assert (second.product["product_id"], second.position, second.placed_by) == ("p00", 2, None)


def test_a_pin_meets_the_filters_and_exists(search, ruled, shop):
    """As the product is now: the index may not know it yet."""
    stored = shop[2].products
    ruled({"query": "red chair", "pin": ["p47", "p02", "nobody"]})
    cheap = SearchRequest(query="red chair", filters=Filters(price_max=20))
    assert ids(search(cheap))[0] == "p02" and "p47" not in ids(search(cheap))
    before = stored.load(["p02", "p47"])
    try:
        stored.upsert([StoredProduct({**before[0].document, "price": 99.0})])
        assert "p02" not in ids(search(cheap))
        stored.delete("p47")
        assert ids(search(SearchRequest(query="red chair")))[0] == "p02"
    finally:
        stored.upsert(before)


def test_a_rule_is_of_a_query_whatever_the_mode_and_of_a_country_before_all_others(search, ruled):
    ruled(
        {"query": "Red Chair", "pin": ["p01"]},
        {"query": "red chair", "country": "es", "pin": ["p03"]},
    )

    def first(**wanted):
        return ids(search(SearchRequest(**wanted)))[0]

    for mode in ("hybrid", "semantic", "text"):
        assert first(query=" red  chair", mode=mode) == "p01"
    assert first(query="red chair", country="gb") == "p01" and first(query="red chair", country="es") == "p03"
    assert first(query="red chairs") not in ("p01", "p03") and first(query="") not in ("p01", "p03")


def test_what_is_buried_is_behind_what_only_a_deeper_search_finds(search, ruled):
    """The first page's search finds a dozen at most: only a deeper one knows that there is nothing else."""
    everything = [each for page in pages(search, query="red chair", page_size=3) for each in ids(page)]
    ruled({"query": "red chair", "bury": everything[:2]})
    assert [each for page in pages(search, query="red chair", page_size=3) for each in ids(page)] == (
        everything[2:] + everything[:2]
    )


def test_pins_are_as_many_pages_as_they_need(search, ruled):
    pin = ["p40", "p11", "p30", "p21"]
    ruled({"query": "red chair", "pin": pin})
    first, second = pages(search, query="red chair", page_size=2)[:2]
    assert [*ids(first), *ids(second)] == pin


def test_a_broken_file_leaves_the_rules_as_they_were_and_is_told_of_once(search, ruled, shop, caplog):
    folder = shop[0]
    request = SearchRequest(query="red chair")
    ruled({"query": "red chair", "pin": ["p40"]})
    assert ids(search(request))[0] == "p40"
    (folder / RULES).write_text('[[rules]]\nquery = "red chair"\npin = "p41"')
    with caplog.at_level(logging.ERROR):
        for _ in range(3):
            assert ids(search(request))[0] == "p40"
    (told,) = caplog.messages
    assert "rule 1, field pin" in told and "rules of before go on" in told
    ruled({"query": "red chair", "pin": ["p41"]})
    assert ids(search(request))[0] == "p41"
    (folder / RULES).unlink()
    assert ids(search(request))[0] == "p00"


def test_a_file_that_is_broken_at_the_start_has_no_rules_until_it_is_mended(shop, ruled, caplog):
    folder = shop[0]
    (folder / RULES).write_text("[[")
    rules = MarketRules(folder)
    assert rules.of("red chair", None) is None and len(caplog.messages) == 1
    ruled({"query": "red chair", "pin": ["p41"]})
    assert rules.of("RED chair", "gb").pin == ("p41",)
