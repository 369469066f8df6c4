"""What a page is cut from: how many products it reads, and how often."""

from __future__ import annotations

from contextlib import closing
from uuid import uuid4

import pytest

from mercato.catalogue.store import Catalogue
from mercato.retrieval.expression import Expression, Filters
from mercato.retrieval.open import ENGINES, build_index, open_index
from mercato.retrieval.samples import DIMENSION, product
from mercato.search.pipeline import Searcher
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.search.request import SearchRequest
from tests.support import reference_engine
from tests.support.small_market import TrigramEncoder
from tests.support.stored import stored

LAMPS = [stored(f"p{number}", "lamp", price=10.0) for number in range(1_500)]


@pytest.fixture
def catalogue(tmp_path):
    with closing(Catalogue.open(tmp_path / "catalogue.sqlite")) as catalogue:
        catalogue.products.seed(LAMPS)
        yield catalogue


@pytest.fixture
def find(catalogue, monkeypatch):
    """Search for a page of lamps under a price."""
    monkeypatch.setitem(ENGINES, "memory", reference_engine.MODULE)
    build_index(url := f"memory://{uuid4()}", (product(n, title="lamp", price=10.0) for n in range(1_500)), DIMENSION)
    with open_index(url) as index:
        search = Searcher(TrigramEncoder(), index, catalogue, RetrievalPolicy()).search
        wanted = {"query": "lamp", "mode": "text", "filters": Filters(price_max=50)}
        yield lambda size: [hit.product["product_id"] for hit in search(SearchRequest(**wanted, page_size=size)).hits]


@pytest.fixture
def read(catalogue, monkeypatch):
    """The ids that the catalogue was asked for, one list a statement."""
    read, get_many = [], catalogue.products.get_many
    monkeypatch.setattr(catalogue.products, "get_many", lambda some: read.append([*some]) or get_many(some))
    return read


def test_a_page_reads_what_it_shows_and_some_more_where_one_is_gone(catalogue, find, read):
    """And one, by which it knows that there is another page."""
    shown = find(5)
    catalogue.products.delete(shown[0])
    assert find(5)[:4] == shown[1:] and [len(some) for some in read] == [6, 6, 32]


def test_an_index_that_is_behind_costs_few_statements_and_no_product_is_read_twice(catalogue, find, read):
    """After a bulk change, whose products most candidates are, and through all windows that the page looks at."""
    shown = find(24)
    catalogue.products.upsert([stored(row.product_id, price=99.0) for row in LAMPS if row.product_id not in shown])
    read.clear()
    assert find(24) == shown
    ids_read = [product_id for some in read for product_id in some]
    assert len(read) < 10 and len({*ids_read}) == len(ids_read) == 1_000


def test_a_page_that_ends_before_all_was_looked_at_says_so(tmp_path, monkeypatch):
    """As where the best that the index holds have all been priced anew, and it does not know yet."""
    rows = [stored(f"p{number}", "lamp", price=10.0) for number in range(40)]
    monkeypatch.setitem(ENGINES, "memory", reference_engine.MODULE)
    build_index(url := f"memory://{uuid4()}", (product(n, title="lamp", price=10.0) for n in range(40)), DIMENSION)
    with closing(Catalogue.open(tmp_path / "catalogue.sqlite")) as catalogue, open_index(url) as index:
        catalogue.products.seed(rows)
        policy = RetrievalPolicy(pages=(Effort(ef_search=8, candidates=12),))
        find = Searcher(TrigramEncoder(), index, catalogue, policy).search
        best = index.search(Expression(), 12).product_ids
        catalogue.products.upsert([stored(product_id, price=99.0) for product_id in best])
        page = find(SearchRequest(query="", page_size=8, filters=Filters(price_max=50)))
        assert (page.hits, page.cursor, page.total) == ((), None, 40) and page.truncated
