"""Seller diversity and exploration over pages, by a ranker that asks for them."""

from __future__ import annotations

from collections import Counter
from contextlib import closing
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from uuid import uuid4

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mercato.catalogue.store import Catalogue
from mercato.config.ranking import Diversity, Exploration, Ranking
from mercato.ranking.lookup import Lookup
from mercato.ranking.ranker import Scored
from mercato.retrieval.expression import Expression, Filters
from mercato.retrieval.open import ENGINES, build_index, open_index
from mercato.retrieval.protocol import record_from_product
from mercato.search import pipeline
from mercato.search.exploration import chosen, drawn
from mercato.search.pipeline import Searcher
from mercato.search.placing import Placing
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.search.request import SearchRequest
from tests.support import reference_engine
from tests.support.small_market import TrigramEncoder
from tests.support.stored import stored

NOW = datetime(2026, 5, 20, tzinfo=UTC)
ALL = RetrievalPolicy(pages=(Effort(ef_search=8, candidates=1000),))
POLICY = RetrievalPolicy(pages=(Effort(ef_search=8, candidates=20), Effort(ef_search=8, candidates=1000)))
EXACT = "p57"  # of s0: it alone holds a word of the query "lamp xk90"


class Cheapest:
    """Ranks the cheapest first, and knows of no impressions."""

    statistics = SimpleNamespace(products=Lookup(np.zeros(0, np.uint64), np.zeros((0, 3), np.float32)))

    features_version = "of prices"

    def __init__(self, **options):
        self.settings = Ranking(**options)

    def rank(self, asked, hits, begun):
        return Scored({"trees": -hits.signals().number("price")})


def rows():
    """60 lamps of 7 sellers, half of them of one; every fourth was listed yesterday."""
    for number in range(60):
        title = "lamp xk90" if f"p{number:02}" == EXACT else "lamp"
        ago = timedelta(days=1 if number % 4 == 3 else 50)
        seller = "s0" if number % 2 else f"s{number % 6 + 1}"
        yield {
            "product_id": f"p{number:02}", "title": title, "price": 10.0 + number, "seller_id": seller,
            "created_at": NOW - ago,
        }  # fmt: skip


def as_stored(row):
    return stored(**row | {"created_at": row["created_at"].isoformat()})


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    """Search with a ranker's options; it has its `index` and its `catalogue`."""
    encoder, url, folder = TrigramEncoder(), f"memory://{uuid4()}", tmp_path_factory.mktemp("placing")
    made = [*rows()]
    with pytest.MonkeyPatch.context() as patch, closing(Catalogue.open(folder / "catalogue.sqlite")) as catalogue:
        patch.setitem(ENGINES, "memory", reference_engine.MODULE)
        build_index(url, map(record_from_product, made, encoder.encode_products(made)), encoder.dimension)
        catalogue.products.seed([*map(as_stored, made)])
        with open_index(url) as index:

            def searcher(ranker, rules=None, policy=POLICY):
                return Searcher(encoder, index, catalogue, policy, ranker, rules, clock=NOW.timestamp)

            searcher.index, searcher.catalogue = index, catalogue
            yield searcher


def pages(search, **wanted):
    found = [search(SearchRequest(**wanted))]
    while found[-1].cursor:
        found.append(search(SearchRequest(**wanted, cursor=found[-1].cursor)))
    return found


def listed(found):
    return [hit.product["product_id"] for page in found for hit in page.hits]


def exploring(share=0.3, first=4):
    return Exploration(share=share, first=first, days=7, impressions=1)


@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    per_seller=st.none() | st.integers(1, 3),
    share=st.none() | st.floats(0.05, 0.5),
    page_size=st.integers(1, 25),
    query=st.sampled_from(["lamp", "lamp xk90"]),
)
def test_nothing_is_lost_or_repeated_and_no_page_has_too_many_of_a_seller(shop, per_seller, share, page_size, query):
    diversity = Diversity(per_seller=per_seller) if per_seller else None
    ranker = Cheapest(diversity=diversity, exploration=exploring(share) if share else None)
    found = pages(shop(ranker).search, query=query, page_size=page_size)
    assert sorted(listed(found)) == [f"p{number:02}" for number in range(60)]
    if query == "lamp xk90":
        assert listed(found)[0] == EXACT
    for page in found:
        for hit in page.hits:
            days = (NOW - datetime.fromisoformat(hit.product["created_at"])).days
            assert hit.placed_by is None or (days == 1 and hit.position >= 4)
    if per_seller:
        sellers = [Counter(hit.product["seller_id"] for hit in page.hits) for page in found]
        if page_size <= 3 * per_seller:  # of the 20 candidates of a first page enough are of others
            assert max(sellers[0].values()) <= per_seller
        for number, counts in enumerate(sellers[1:], 2):
            if max(counts.values()) > per_seller:
                left = {seller for later in sellers[number:] for seller in later}
                assert all(counts[seller] >= per_seller for seller in left), "there were others"


def test_with_nothing_asked_for_pages_are_in_the_ranker_s_order(shop):
    for query in ("lamp", "lamp xk90"):
        hits = [hit for page in pages(shop(Cheapest()).search, query=query, page_size=7) for hit in page.hits]
        assert {hit.placed_by for hit in hits} == {None}
        found = [hit.product["product_id"] for hit in hits]
        assert found == sorted(found, key=lambda key: (query == "lamp" or key != EXACT, key)) and len(found) == 60


def test_what_a_seller_has_too_many_of_comes_on_the_next_page_first(shop):
    found = pages(shop(Cheapest(diversity=Diversity(per_seller=1))).search, query="lamp", page_size=4)
    assert [hit.product["seller_id"] for hit in found[0].hits] == ["s1", "s0", "s3", "s5"]
    assert listed(found[:1]) == ["p00", "p01", "p02", "p04"] and listed(found[1:2])[0] == "p03"


def test_sellers_of_exact_hits_count(shop):
    (first, *_) = pages(shop(Cheapest(diversity=Diversity(per_seller=2))).search, query="lamp xk90", page_size=8)
    sellers = [hit.product["seller_id"] for hit in first.hits]
    assert sellers[0] == "s0" and sellers.count("s0") == 2


def test_exact_hits_stay_first_whosever_they_are_and_whatever_is_drawn():
    placing = Placing(np.array([7, 7, 7, 8, 7], np.uint64), 1, np.array([4, 3]), np.ones(9, bool))
    order = [*placing.order(iter([0, 1]), iter([2, 3, 4]), iter([4, 3]), 1)]
    assert order == [(0, None), (1, None), (3, "exploration")]


def test_what_is_drawn_comes_once():
    placing = Placing(np.array([7, 7, 8, 8], np.uint64), 2, np.array([3, 1]), np.ones(9, bool))
    order = [*placing.order(iter([]), iter(range(4)), iter([3, 1]), 1)]
    assert order == [(3, "exploration"), (1, "exploration"), (0, None), (2, None)]
    third = Placing(np.array([1, 2, 3, 4], np.uint64), 2, np.array([1, 3]), np.arange(4) == 3)
    order = [*third.order(iter([0]), iter([1, 2, 3]), iter([1, 3]), 1)]  # an exact hit takes the first place
    assert order == [(0, None), (1, None), (3, "exploration"), (2, None)]


def test_only_chosen_places_are_given_on_every_page(shop):
    """Counted over all pages, and over what a rule pins."""
    settings = exploring(0.5, 12)
    rules = SimpleNamespace(of=lambda *_: SimpleNamespace(pin=("p50",), bury=()))
    for _ in range(5):
        found = pages(shop(Cheapest(exploration=settings), rules).search, query="lamp", page_size=5)
        drawn = [hit.position for page in found for hit in page.hits if hit.placed_by == "exploration"]
        chosen_P = chosen(name_of(found[0]), 1000, settings)
        assert drawn and chosen_P[drawn].all() and found[0].hits[0].placed_by == "pin"


def test_a_pinned_listing_does_not_count_for_its_seller(shop):
    rules = SimpleNamespace(of=lambda *_: SimpleNamespace(pin=("p01",), bury=()))
    ranker = Cheapest(diversity=Diversity(per_seller=1))
    page = shop(ranker, rules).search(SearchRequest(query="lamp", page_size=5))
    assert [hit.product["product_id"] for hit in page.hits] == ["p01", "p00", "p02", "p03", "p04"]


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    gone=st.sets(st.integers(0, 59), max_size=45),
    per_seller=st.integers(1, 3),
    share=st.sampled_from([0.1, 0.5]),
    page_size=st.integers(1, 25),
)
def test_only_what_a_page_shows_counts_for_a_seller_or_takes_a_drawn_place(shop, gone, per_seller, share, page_size):
    """The index does not know yet that some are too dear now; pages are as if these had never been there."""
    made, left = [*rows()], [row for number, row in enumerate(rows()) if number not in gone]
    exploration = exploring(share)
    ranker = Cheapest(diversity=Diversity(per_seller=per_seller), exploration=exploration)
    wanted = {"query": "lamp", "page_size": page_size, "filters": Filters(price_max=100)}
    shop.catalogue.products.upsert([as_stored(made[number] | {"price": 1000.0}) for number in gone])
    try:
        found = pages(shop(ranker, policy=ALL).search, **wanted)
    finally:
        shop.catalogue.products.upsert([as_stored(made[number]) for number in gone])
    expected = by_hand(left, drawn_ids(shop, name_of(found[0]), exploration), name_of(found[0]), ranker, page_size)
    assert [[(hit.product["product_id"], hit.placed_by) for hit in page.hits] for page in found] == expected


def name_of(page):
    """By which a search draws: what its query id begins with."""
    return page.query_id[:24]


def by_hand(left, drawn, query_id, ranker, page_size):
    """Ids and what placed them, page by page, of what is left, cheapest first."""
    chosen_P = chosen(query_id, 1000, ranker.settings.exploration)
    ids = [row["product_id"] for row in left]
    sellers = {row["product_id"]: row["seller_id"] for row in left}
    made, position = [[]], 1
    while ids:
        if len(made[-1]) == page_size:
            made.append([])
        counts = Counter(sellers[key] for key, _ in made[-1])
        others = [key for key in ids if counts[sellers[key]] < ranker.settings.diversity.per_seller]
        new = [key for key in drawn if key in others] if chosen_P[position] else []
        taken = (new or others or ids)[0]
        made[-1].append((taken, "exploration" if new else None))
        ids.remove(taken)
        position += 1
    return made


def drawn_ids(shop, query_id, exploration):
    """New listings in the order in which a search of this id draws them among all."""
    ids = [row["product_id"] for row in rows()]
    signals = shop.index.lookup(Expression(), ids).signals()
    return [ids[place] for place in drawn(query_id, signals, Cheapest.statistics, NOW, exploration)]


def test_without_a_ranker_s_scores_neither_applies(shop):
    class Late(Cheapest):
        def rank(self, asked, hits, begun):
            return Scored({})

    late = Late(diversity=Diversity(per_seller=1), exploration=exploring())
    plain = pages(shop(None).search, query="lamp", page_size=9)
    found = pages(shop(late).search, query="lamp", page_size=9)
    assert listed(found) == listed(plain)
    assert {hit.placed_by for page in found for hit in page.hits} == {None}


def test_exploration_is_the_search_s_own(shop, monkeypatch):
    """The same on another worker, which retrieves its window again, and another one in another search."""
    ranker = Cheapest(exploration=exploring())

    def explored(query_id):
        monkeypatch.setattr(pipeline.secrets, "token_hex", lambda _: query_id)
        one, other = [], []
        cursor = None
        kept = shop(ranker)
        while cursor is not None or not one:
            request = SearchRequest(query="lamp", page_size=10, cursor=cursor)
            page = kept.search(request)
            if cursor is not None:
                other.append([(hit.product["product_id"], hit.placed_by) for hit in shop(ranker).search(request).hits])
            one.append([(hit.product["product_id"], hit.placed_by) for hit in page.hits])
            cursor = page.cursor
        assert one[1:] == other
        return one

    names = ["0123456789abcdef01234567", "76543210fedcba9876543210"]
    first, again, another = explored(names[0]), explored(names[0]), explored(names[1])
    assert first == again != another
    assert any(placed_by == "exploration" for page in first for _, placed_by in page)


def test_a_drawn_listing_keeps_to_its_seller_s_bound(shop):
    """All new ones are of s0."""
    ranker = Cheapest(diversity=Diversity(per_seller=2), exploration=exploring(0.5, 1))
    for _ in range(20):
        page = shop(ranker).search(SearchRequest(query="lamp", page_size=8))
        assert Counter(hit.product["seller_id"] for hit in page.hits)["s0"] <= 2


def test_a_ranked_page_s_drawn_hit_still_says_where_the_order_had_it(shop):
    page = shop(Cheapest(exploration=exploring(0.5, 1))).search(SearchRequest(query="lamp", page_size=20))
    drawn = [hit for hit in page.hits if hit.placed_by]
    assert drawn and all(hit.places["trees"] == int(hit.product["product_id"][1:]) + 1 for hit in drawn)
