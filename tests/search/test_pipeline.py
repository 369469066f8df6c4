"""The pipeline without HTTP, over the reference engine: a request in, a page out."""

from __future__ import annotations

import gc
import shutil
import time
import weakref
from contextlib import closing
from datetime import UTC, datetime
from uuid import uuid4

import numpy as np
import pytest

from mercato.catalogue.products import StoredProduct
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.config.ranking import Ranking
from mercato.data.market import Market
from mercato.errors import MercatoError, NotFoundError
from mercato.ranking.features import NAMES, UNLOGGED, Asked
from mercato.ranking.ranker import Scored
from mercato.retrieval.expression import Filters, GeoRadius
from mercato.retrieval.open import ENGINES, build_index, open_index
from mercato.retrieval.protocol import record_from_product
from mercato.search import pipeline
from mercato.search.logged import feature_rows
from mercato.search.market_info import Place, market_info
from mercato.search.pipeline import Searcher
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.search.query_prediction import QueryPredictor
from mercato.search.request import Location, SearchRequest
from tests.support import reference_engine
from tests.support.small_market import HeadedEncoder, TrigramEncoder, make_market, products


@pytest.fixture(scope="module")
def market(tmp_path_factory):
    return make_market(tmp_path_factory.mktemp("pipeline") / "market")


@pytest.fixture(scope="module")
def catalogue(market, tmp_path_factory):
    copy = Market.open(shutil.copytree(market.path, tmp_path_factory.mktemp("catalogue") / "market"))
    with closing(Catalogue.open(copy.path / "catalogue.sqlite")) as catalogue:
        seed(catalogue, copy)
        yield catalogue


@pytest.fixture(scope="module")
def index():
    url, encoder = f"memory://{uuid4()}", TrigramEncoder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(ENGINES, "memory", reference_engine.MODULE)
        build_index(url, map(record_from_product, products(), encoder.encode_products(products())), encoder.dimension)
        with open_index(url) as index:
            yield index


@pytest.fixture(scope="module")
def search(index, catalogue):
    """Make the search of a policy."""
    return lambda **policy: Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy(**policy)).search


def ids(page):
    return [hit.product["product_id"] for hit in page.hits]


def test_a_page_says_what_was_found_where_and_how_far(search):
    london = Location(51.5, -0.1)
    page = search()(SearchRequest(query="red chair", location=london, page_size=3))
    first = page.hits[0]
    assert (first.position, first.product["title"], first.hit.found_by) == (1, "red chair", ("ann", "text"))
    assert 0 <= first.distance_km < 10 and page.total == 48 and page.cursor and len(page.hits) == 3


@pytest.mark.parametrize("request_", [{"query": "red chair"}, {"query": "chair", "mode": "text"}, {"query": " "}])
@pytest.mark.parametrize("min_cosine", [None, 0.4])
@pytest.mark.parametrize("candidates", [(100,), (6, 1000), (3, 9, 27)])
def test_the_pages_together_are_the_ranking(search, request_, min_cosine, candidates):
    """Whichever of them the first retrieval reaches; equal scores stand in one order however many were asked for."""
    find = search(pages=tuple(Effort(ef_search=16, candidates=n, min_cosine=min_cosine) for n in candidates))
    whole, pages, cursor = find(SearchRequest(**request_, page_size=100)), [], None
    while not pages or cursor:
        pages.append(find(SearchRequest(**request_, page_size=5, cursor=cursor)))
        cursor = pages[-1].cursor
    assert [key for page in pages for key in ids(page)] == ids(whole)
    assert len({page.query_id for page in pages}) == 1


def test_the_first_page_is_cheap_and_every_later_one_digs_deeper(index, search, monkeypatch):
    efforts = []
    find = search(pages=(Effort(ef_search=10, candidates=4, min_cosine=0.1), Effort(ef_search=70, candidates=40)))
    asked = type(index).search
    monkeypatch.setattr(
        type(index), "search", lambda self, expression, limit: efforts.append((expression.ef_search, limit))
        or asked(self, expression, limit)
    )  # fmt: skip
    cursor = None
    for effort in ([(10, 4)], [(70, 40)], []):  # the third page is in the second one's window
        cursor = find(SearchRequest(query="red chair", page_size=3, cursor=cursor)).cursor
        assert efforts == effort
        efforts.clear()
    policy = RetrievalPolicy()
    assert policy.effort(0).ef_search < policy.effort(1).ef_search == policy.effort(99).ef_search


@pytest.mark.parametrize("depths", [(2, None), (2, 30), (0, 5), (3, 3)])
def test_the_words_may_dig_deeper_page_by_page(search, depths):
    """Beside few near ones the pages hold all that the words bring at the last depth, and end there."""
    efforts = [Effort(ef_search=16, candidates=40, min_cosine=0.8, text_candidates=depth) for depth in depths]
    find, deepest, cursor, shown = search(pages=tuple(efforts)), search(pages=tuple(efforts[-1:])), None, []
    whole = ids(deepest(SearchRequest(query="red chair", page_size=100)))
    while not shown or cursor:
        page = find(SearchRequest(query="red chair", page_size=4, cursor=cursor))
        cursor = page.cursor
        shown += ids(page)
    assert len(shown) == len({*shown}) and {*shown} == {*whole}
    alone = {"query": "red chair", "mode": "text", "page_size": 100}
    assert ids(find(SearchRequest(**alone))) == ids(search()(SearchRequest(**alone)))


def test_a_search_that_has_all_the_near_ones_and_the_words_bound_is_not_repeated(index, search, monkeypatch):
    """No page may have more of the words than the last one, so that a deeper retrieval would find the same."""
    limits, asked = [], type(index).search
    monkeypatch.setattr(
        type(index), "search", lambda self, expression, limit: limits.append(limit) or asked(self, expression, limit)
    )
    first, later = (Effort(ef_search=16, candidates=n, min_cosine=0.9, text_candidates=2) for n in (45, 90))
    search(pages=(first, later))(SearchRequest(query="red chair", page_size=40))
    assert limits == [45]


def test_a_later_page_may_accept_what_the_first_one_did_not(search):
    """However few the first threshold leaves: that is not all there is."""
    strict = Effort(ef_search=16, candidates=100, min_cosine=0.95)
    find = search(pages=(strict, Effort(ef_search=16, candidates=100, min_cosine=0.1)))
    everything = search(pages=(Effort(ef_search=16, candidates=100, min_cosine=0.1),))
    request = {"query": "red chair", "mode": "semantic"}
    first = find(SearchRequest(**request, page_size=1))
    rest = find(SearchRequest(**request, page_size=100, cursor=first.cursor))
    assert ids(first) + ids(rest) == ids(everything(SearchRequest(**request, page_size=100)))
    assert len(ids(rest)) > 10


def test_what_is_kept_for_the_next_page_keeps_no_generation(catalogue, tmp_path):
    encoder, rows = TrigramEncoder(), products()
    records = [*map(record_from_product, rows, encoder.encode_products(rows))]
    build_index(tmp_path, records, encoder.dimension)
    with open_index(tmp_path) as index:
        find = Searcher(encoder, index, catalogue, RetrievalPolicy()).search
        everything = ids(find(SearchRequest(query="red chair", page_size=48)))
        first = find(SearchRequest(query="red chair", page_size=9))
        generation = weakref.ref(index._opened)
        index.compact()
        gc.collect()
        assert generation() is None
        rest = find(SearchRequest(query="red chair", page_size=39, cursor=first.cursor))
        assert ids(first) + ids(rest) == everything


def test_windows_are_kept_by_their_hits_and_only_where_there_is_another_page(index, catalogue, monkeypatch):
    monkeypatch.setattr(pipeline, "KEPT_BYTES", 10_000)  # one window: it has 48 hits
    retrieved, asked = [], type(index).search
    monkeypatch.setattr(
        type(index), "search", lambda self, expression, limit: retrieved.append(1) or asked(self, expression, limit)
    )
    find = Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy()).search

    def retrievals(**wanted):
        before = len(retrieved)
        return find(SearchRequest(query="red chair", **wanted)).cursor, len(retrieved) - before

    cursor, first = retrievals(page_size=10)
    assert (first, retrievals(page_size=10, cursor=cursor)[1]) == (1, 0)
    assert retrievals(page_size=48) == (None, 1), "there is no other page"
    assert retrievals(page_size=10, cursor=cursor)[1] == 0
    retrievals(page_size=47)
    assert retrievals(page_size=10, cursor=cursor)[1] == 1


def test_the_encoder_reads_the_query_without_blanks_and_the_searcher_s_country(index, catalogue):
    """And nothing where the words alone search."""
    read = []

    class Encoder(TrigramEncoder):
        def encode_queries(self, queries, country=None):
            read.append((*queries, country))
            return super().encode_queries(queries, country)

    find = Searcher(Encoder(), index, catalogue, RetrievalPolicy()).search
    for request in ({"query": " red chair "}, {"query": "red chair", "mode": "text"}, {"query": " "}):
        find(SearchRequest(**request, country="gb"))
    assert read == [("red chair", "gb")]


def test_windows_are_kept_within_bounds_however_few_hits_they_have(index, catalogue, monkeypatch):
    monkeypatch.setattr(pipeline, "KEPT_BYTES", 20_000)
    searcher = Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy())
    dearest = Filters(price_min=sorted(row["price"] or 0 for row in products())[-3])
    for _ in range(20):
        assert searcher.search(SearchRequest(filters=dearest, page_size=1)).cursor
    assert 1 <= len(searcher._windows) < 6


def test_what_has_moved_out_of_the_radius_is_not_shown(search, catalogue):
    near = Filters(near=GeoRadius(latitude=51.5, longitude=-0.1, radius_km=50))
    before = ids(search()(SearchRequest(query="red chair", filters=near, page_size=100)))
    (moved,) = catalogue.products.load([before[0]])
    catalogue.products.upsert([StoredProduct({**moved.document, "latitude": 40.0})])
    try:
        assert ids(search()(SearchRequest(query="red chair", filters=near, page_size=100))) == before[1:]
    finally:
        catalogue.products.upsert([moved])


def test_no_search_shows_more_than_the_deepest_page_allows(search):
    find = search(deepest=10)
    first = find(SearchRequest(query="red chair", page_size=7))
    last = find(SearchRequest(query="red chair", page_size=7, cursor=first.cursor))
    assert (len(first.hits), len(last.hits), last.cursor) == (7, 3, None)
    assert last.truncated and not first.truncated


def test_where_nothing_more_was_found_nothing_is_said_to_be_cut_short(search):
    request = SearchRequest(query="red chair", page_size=100)
    found = len(search()(request).hits)
    for deepest, truncated in ((found - 1, True), (found, False), (found + 1, False)):
        page = search(deepest=deepest)(request)
        assert (page.cursor, page.truncated) == (None, truncated)


def test_a_cursor_belongs_to_everything_that_decides_the_ranking(search):
    find = search()
    cursor = find(SearchRequest(query="red chair", page_size=3)).cursor
    assert find(SearchRequest(query="red chair", page_size=7, cursor=cursor)).hits[0].position == 4
    for other in (
        {"country": "gb"},
        {"mode": "text"},
        {"filters": Filters(price_max=20)},
        {"location": Location(1, 2)},
    ):
        with pytest.raises(MercatoError, match="another search"):
            find(SearchRequest(query="red chair", cursor=cursor, **other))


def test_queries_are_predicted_for_a_product_there_is(catalogue):
    predictor = QueryPredictor(HeadedEncoder(), catalogue)
    assert predictor.predict("p00", 1)[0].query == "red chair" and predictor.queries == 24
    with pytest.raises(NotFoundError, match="no such product"):
        predictor.predict("nobody", 1)
    with pytest.raises(NotFoundError, match=r"head\.queries"):
        QueryPredictor(TrigramEncoder(), catalogue).predict("p00", 1)


def test_market_info_counts_the_catalogue(market, catalogue):
    info = market_info(market, catalogue.products.documents())
    assert {"Home", "Home > Furniture"} <= set(info.categories) and set(info.countries) == {"gb", "es"}
    assert set(info.places) == {Place("es", 40.4, -3.7), Place("gb", 51.5, -0.1)}
    assert info.examples == ("red chair",)


class ByPrice:
    """Ranks the cheapest first."""

    features_version = "1 of prices"
    settings = Ranking()

    def __init__(self):
        self.asked = []

    def rank(self, asked, hits, begun):
        self.asked.append(asked)
        price_H = hits.signals().number("price")
        features_HF = np.tile(price_H[:, None], len(NAMES))  # each has its price for every feature
        return Scored({"trees": hits.cosine_H, "dlrm": -price_H}, features_HF)


def test_a_ranker_orders_what_was_found(index, catalogue):
    """On every page, whatever the cosine."""
    moment = datetime(2026, 5, 1, tzinfo=UTC)
    ranker, now = ByPrice(), [moment.timestamp()]

    def find(request):  # each page by another worker
        policy = RetrievalPolicy()
        return Searcher(TrigramEncoder(), index, catalogue, policy, ranker, clock=lambda: now[0]).search(request)

    london = Location(51.5, -0.1)
    pages = [find(SearchRequest(query="red chair", location=london, page_size=10))]
    while pages[-1].cursor:
        now[0] += 60
        pages.append(find(SearchRequest(query="red chair", location=london, page_size=10, cursor=pages[-1].cursor)))
    hits = [hit for page in pages for hit in page.hits]
    assert [hit.product["price"] for hit in hits] == sorted(hit.product["price"] for hit in hits)
    assert all(hit.rank_score == pytest.approx(-hit.product["price"]) for hit in hits)
    assert len(ranker.asked) == len(pages) > 1 and {page.ranked_by for page in pages} == {"dlrm"}
    by_cosine = sorted(hits, key=lambda hit: -hit.hit.cosine)
    for name, ordered in (("trees", by_cosine), ("dlrm", hits)):
        assert [hit.places[name] for hit in ordered] == [*range(1, len(hits) + 1)]
    assert sorted(hit.places["retrieval"] for hit in hits) == [*range(1, len(hits) + 1)]
    assert {*ranker.asked} == {Asked("red chair", moment, london.latitude, london.longitude)}


def test_what_a_logged_search_was_ordered_by_is_told_of_what_its_pages_show(index, catalogue):
    """Of every hit its own, also on a page from the window that was kept; age and distance are told of none."""
    searcher, cursor, shown = Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy(), ByPrice()), None, 0
    for _ in range(3):
        page = searcher.search(SearchRequest(query="red chair", page_size=7, cursor=cursor), logged=1.0)
        cursor, rows = page.cursor, feature_rows(page)
        assert [row["product_id"] for row in rows] == ids(page)
        for row, hit in zip(rows, page.hits, strict=True):
            told = dict(zip(NAMES, row.pop("features").tolist(), strict=True))
            assert {name for name, value in told.items() if np.isnan(value)} == {*UNLOGGED}
            assert {value for name, value in told.items() if name not in UNLOGGED} == {hit.product["price"]}
            shown += 1
            where = {"query_id": page.query_id, "product_id": hit.product["product_id"], "position": shown}
            by = {"features_version": "1 of prices", "ranked_by": "dlrm", "rank_score": -hit.product["price"]}
            assert row == where | by


def test_a_share_of_the_searches_is_logged_each_whole(index, catalogue, monkeypatch):
    """Which ones their ids decide. Nothing is where nothing ranked."""

    def logged(query_id, share, ranker):
        monkeypatch.setattr("mercato.search.pipeline.secrets.token_hex", lambda _: query_id)
        searcher, cursor, found = Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy(), ranker), None, set()
        while not found or cursor:
            page = searcher.search(SearchRequest(query="red chair", page_size=20, cursor=cursor), share)
            cursor = page.cursor
            found.add(len(feature_rows(page)) == len(page.hits))
        (whole,) = found
        return whole

    low, middle, high = "0" * 24, "80" + "0" * 22, "f" * 24
    for share, which in ((0.0, []), (0.5, [low]), (0.51, [low, middle]), (1.0, [low, middle, high])):
        assert [query_id for query_id in (low, middle, high) if logged(query_id, share, ByPrice())] == which
    assert not logged(low, 1.0, None)


@pytest.mark.parametrize("request_", [{"query": "chair", "mode": "text"}, {"query": "chair", "mode": "semantic"}, {}])
def test_where_a_score_is_missing_nothing_is_ranked(index, catalogue, request_):
    ranked, plain = (
        Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy(), ranker).search(SearchRequest(**request_))
        for ranker in (ByPrice(), None)
    )
    assert ids(ranked) == ids(plain) and {hit.rank_score for hit in ranked.hits} == {None}


def test_a_ranker_s_time_counts_from_the_beginning_of_the_search(index, catalogue):
    """Of each page: what encoding and retrieval have taken is gone."""
    encoded, begun = [], []

    class Encoder(TrigramEncoder):
        def encode_queries(self, queries, country=None):
            encoded.append(time.perf_counter())
            return super().encode_queries(queries, country)

    class Late:
        def rank(self, asked, hits, moment):
            begun.append(moment)
            return Scored({})

    policy = RetrievalPolicy(pages=(Effort(ef_search=16, candidates=6), Effort(ef_search=16, candidates=20)))
    searcher, cursor = Searcher(Encoder(), index, catalogue, policy, Late()), None
    for _ in range(2):
        asked = time.perf_counter()
        cursor = searcher.search(SearchRequest(query="red chair", page_size=5, cursor=cursor)).cursor
        assert asked <= begun[-1] < encoded[-1]
    assert len(begun) == len(encoded) == 2


def test_what_was_ranked_too_late_once_is_ranked_on_the_next_page(index, catalogue):
    class LateOnce(ByPrice):
        late = True

        def rank(self, asked, hits, begun):
            late, self.late = self.late, False
            return Scored({}, left_out="late") if late else super().rank(asked, hits, begun)

    searcher = Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy(), LateOnce())
    first = searcher.search(SearchRequest(query="red chair", page_size=3))
    second = searcher.search(SearchRequest(query="red chair", page_size=3, cursor=first.cursor))
    assert (first.ranked_by, first.left_out) == (None, "late")
    assert (second.ranked_by, second.left_out) == ("dlrm", None) and not {*ids(first)} & {*ids(second)}


def test_a_ranker_without_scores_leaves_the_order(index, catalogue):
    class Late:
        settings = Ranking()

        def rank(self, asked, hits, begun):
            assert time.perf_counter() - begun < 60
            return Scored({})

    late = Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy(), Late())
    plain = Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy())
    found = late.search(SearchRequest(query="red chair"))
    assert ids(found) == ids(plain.search(SearchRequest(query="red chair")))
    assert found.ranked_by is None and {hit.places for hit in found.hits} == {None}
