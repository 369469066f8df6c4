"""Whatever happens between two pages: nothing is shown twice, nothing that is gone or too dear, nothing is skipped."""

from __future__ import annotations

import shutil
from contextlib import closing
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mercato.catalogue.products import StoredProduct
from mercato.catalogue.seeding import seed
from mercato.catalogue.store import Catalogue
from mercato.data.market import Market
from mercato.retrieval.expression import Filters
from mercato.retrieval.open import ENGINES, build_index, open_index
from mercato.retrieval.protocol import record_from_product
from mercato.search.pipeline import Searcher
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.search.request import SearchRequest
from tests.support import reference_engine
from tests.support.small_market import TrigramEncoder, make_market, products

DEAREST = 45.0  # that the search allows: of 48 products at 10, 11, … 36 are cheaper
POLICY = RetrievalPolicy(pages=(Effort(ef_search=8, candidates=6), Effort(ef_search=8, candidates=1000)))


class Shop:
    """A catalogue, its index, and the workers that answer from both."""

    def __init__(self, catalogue: Catalogue) -> None:
        self.catalogue, self.encoder = catalogue, TrigramEncoder()
        stored = catalogue.products.load([row["product_id"] for row in products()])
        self.rows = {product.row()["product_id"]: product for product in stored}
        self.reset()

    def reset(self) -> None:
        for product_id in [product["product_id"] for product in self.catalogue.products.documents()]:
            if product_id not in self.rows:
                self.catalogue.products.delete(product_id)
        self.catalogue.products.upsert(list(self.rows.values()))
        self.swap()
        self.touched: set[str] = set()

    def swap(self) -> None:
        """Another generation, of what the catalogue holds now."""
        stored = self.catalogue.products.load([p["product_id"] for p in self.catalogue.products.documents()])
        rows = [product.row() for product in stored]
        self.url = f"memory://{uuid4()}"
        vectors = self.encoder.encode_products(rows)
        build_index(self.url, map(record_from_product, rows, vectors), self.encoder.dimension)
        self.index = open_index(self.url)
        self.restart()

    def restart(self) -> None:
        """Another worker: it has no window of anything."""
        self.searcher = Searcher(self.encoder, self.index, self.catalogue, POLICY)

    def write(self, number: int, price: float, indexed: bool) -> None:
        product_id = f"p{number:02}"
        document = {**self.rows[f"p{number % 48:02}"].document, "product_id": product_id, "price": price}
        self.catalogue.products.upsert([StoredProduct(document)])
        self.touched.add(product_id)
        if indexed:
            row = StoredProduct(document).row()
            self.index.upsert([record_from_product(row, self.encoder.encode_products([row])[0])])

    def delete(self, number: int, indexed: bool) -> None:
        self.catalogue.products.delete(f"p{number:02}")
        self.touched.add(f"p{number:02}")
        if indexed:
            self.index.delete([f"p{number:02}"])


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    market = make_market(tmp_path_factory.mktemp("pages") / "market")
    copy = Market.open(shutil.copytree(market.path, tmp_path_factory.mktemp("catalogue") / "market"))
    with pytest.MonkeyPatch.context() as patch, closing(Catalogue.open(copy.path / "catalogue.sqlite")) as catalogue:
        patch.setitem(ENGINES, "memory", reference_engine.MODULE)
        seed(catalogue, copy)
        yield Shop(catalogue)


numbers = st.integers(0, 60)  # of products that there are, and of some that come
happenings = st.one_of(
    st.tuples(st.just("write"), numbers, st.sampled_from([12.0, 44.0, 99.0]), st.booleans()),
    st.tuples(st.just("delete"), numbers, st.booleans()),
    st.tuples(st.sampled_from(["swap", "restart"])),
)


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    between=st.lists(st.lists(happenings, max_size=4), min_size=1, max_size=12),
    page_size=st.integers(1, 13),
    query=st.sampled_from(["red chair", ""]),
)
def test_pages_hold(shop, between, page_size, query):
    shop.reset()
    wanted = {"query": query, "filters": Filters(price_max=DEAREST), "page_size": page_size}
    shown, positions, cursor, steps = [], [], None, iter(between)
    while True:
        page = shop.searcher.search(SearchRequest(**wanted, cursor=cursor))
        for hit in page.hits:
            stored = shop.catalogue.products.get(hit.product["product_id"])
            assert stored is not None and stored["price"] <= DEAREST
            shown.append(hit.product["product_id"])
            positions.append(hit.position)
        if page.cursor is None:
            break
        assert len(page.hits) == page_size
        again = shop.searcher.search(SearchRequest(**wanted, cursor=cursor))
        if cursor is not None:
            assert [hit.product for hit in again.hits] == [hit.product for hit in page.hits], "asked for once more"
        cursor = page.cursor
        for name, *given_ in next(steps, []):
            getattr(shop, name)(*given_)
    assert len(shown) == len(set(shown)) and positions == list(range(1, len(shown) + 1))
    stayed = {key for key, own in shop.rows.items() if own.document["price"] <= DEAREST} - shop.touched
    assert stayed <= set(shown)
