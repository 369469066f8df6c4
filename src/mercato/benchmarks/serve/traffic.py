"""What searchers and sellers send: plans of requests about the products of a market."""

from __future__ import annotations

import secrets
from collections import deque
from dataclasses import replace
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mercato.benchmarks.serve.load import Request
from mercato.benchmarks.serve.market import COLUMNS
from mercato.data.market import Market

QUERIES = NEW, REPEATED = "new query", "repeated query"  # words that nobody asked for before, or that many ask for
FILTERS = {  # and the fields of the products that they are made from
    (NONE := "no filter"): (),
    (PRICE := "price"): ("price",),
    (CATEGORY := "category"): ("category",),
    (RADIUS := "radius"): ("latitude", "longitude"),
    (NARROW := "30 left"): ("category", "price"),
}
PAGES = ("page 1", "page 2", "page 3")
UPSERT, DELETE = "upsert", "delete"

_PAGE_SHARES = (0.7, 0.2, 0.1)  # of the requests
_REPEATED = 100  # queries
_MILES = 50
_LEFT = 30  # products, by the narrow filter
_SAMPLE = 5_000  # products that queries, filters and upserts are about
_PROBED = 10  # one in so many upserts is looked for until it is found


class Traffic:
    """Makes plans, none of which repeats another's new queries; the same seed makes the same."""

    def __init__(self, market: Market, seed: int) -> None:
        self._random = np.random.default_rng(seed)
        count = market.scan("products", ["product_id"]).count_rows()
        rows = np.sort(self._random.choice(count, min(_SAMPLE, count), replace=False))
        self._products: list[dict[str, Any]] = market.scan("products", COLUMNS).take(rows).to_pylist()
        self._titles = [product["title"].split() or [product["title"]] for product in self._products]
        self._bands = _price_bands(market.arrow("products", ["category", "price"]))
        about = {what: self._having(*fields) for what, fields in FILTERS.items()}
        self._about = {what: products for what, products in about.items() if products}
        self._asked: set[str] = set()
        self._repeated = self.queries(_REPEATED)

    def queries(self, count: int) -> list[str]:
        """So many queries that nobody asked for yet."""
        return [self._new_query() for _ in range(count)]

    def warming(self, count: int) -> list[Request]:
        """Searches of every kind, and every query once that is to be repeated."""
        return [*self.searches(count, count), *(Request(kind=(), body={"query": query}) for query in self._repeated)]

    def searches(self, count: int, apart: int, rate: float = 1.0) -> list[Request]:
        """Searches due at the moments of a Poisson process of `rate` a second, every query and filter as often.

        A search is followed by its next page `apart` requests later or more. Kinds: (query, filter, page).
        """
        plan: list[Request] = []
        begun: tuple[deque[int], ...] = (deque(), deque())  # searches whose second and whose third page may be asked
        for place, at in enumerate(self._moments(count, rate)):
            page = int(self._random.choice(len(PAGES), p=_PAGE_SHARES))
            if page and begun[page - 1] and begun[page - 1][0] <= place - apart:
                follows = begun[page - 1].popleft()
                before = plan[follows]
                request = Request(kind=(*before.kind[:2], PAGES[page]), body=before.body, at=at, follows=follows)
            else:
                page, request = 0, self._first_page(at)
            if page + 1 < len(PAGES) and not (page and NARROW in request.kind):
                begun[page].append(place)
            plan.append(request)
        return plan

    def first_pages(self, count: int) -> list[dict[str, Any]]:
        """The bodies of first pages of new queries, under every filter."""
        filters = list(self._about)
        return [self._body(self._new_query(), filters[number % len(filters)]) for number in range(count)]

    def upserts(self, count: int, rate: float, key: str) -> list[Request]:
        """Writes of one product each, due as searches are; one in ten is then looked for by a word of its own."""
        plan = []
        for number, at in enumerate(self._moments(count, rate)):
            word = f"w{secrets.token_hex(6)}"
            request = self._upsert(f"bench-{number}", number, word, at, key)
            probe = {"query": word, "mode": "text", "page_size": 1} if number % _PROBED == 0 else None
            plan.append(replace(request, probe=probe))
        return plan

    def changes(self, count: int, rate: float, key: str, deletes: float, pool: int) -> list[Request]:
        """Writes of one product each, due as searches are; the share `deletes` of them take back what was written.

        They are about so many products, which are written anew time and again, so that the catalogue does not grow.
        """
        plan: list[Request] = []
        written: deque[str] = deque()
        for number, at in enumerate(self._moments(count, rate)):
            if len(written) > pool / 2 and self._random.random() < deletes:
                path = f"/v1/products/{written.popleft()}"
                plan.append(Request(kind=(DELETE,), body={}, at=at, method="DELETE", path=path, key=key))
            else:
                product_id = f"bench-{number % pool}"
                plan.append(self._upsert(product_id, number, f"w{secrets.token_hex(6)}", at, key))
                if product_id not in written:
                    written.append(product_id)
        return plan

    def _upsert(self, product_id: str, number: int, word: str, at: float, key: str) -> Request:
        product = self._products[number % len(self._products)]
        written = {name: value for name, value in product.items() if value is not None}
        written |= {"product_id": product_id, "title": f"{product['title']} {word}"}
        if "created_at" in written:
            written["created_at"] = written["created_at"].isoformat()
        if "attributes" in written:
            written["attributes"] = {name: value for name, value in written["attributes"] if value is not None}
        return Request(kind=(UPSERT,), body={"products": [written]}, at=at, path="/v1/products", key=key)

    def _moments(self, count: int, rate: float) -> list[float]:
        return list(accumulate(self._random.exponential(1 / rate, count).tolist()))

    def _first_page(self, at: float) -> Request:
        query, what = (str(self._random.choice(names)) for names in (QUERIES, list(self._about)))
        words = self._new_query() if query == NEW else str(self._random.choice(self._repeated))
        return Request(kind=(query, what, PAGES[0]), body=self._body(words, what), at=at)

    def _body(self, query: str, what: str) -> dict[str, Any]:
        products = self._about[what]
        product = products[self._random.integers(len(products))]
        body = {"query": query, "country": product["country"], **self._filter(what, product)}
        return {name: value for name, value in body.items() if value is not None}

    def _filter(self, what: str, product: dict[str, Any]) -> dict[str, Any]:
        if what == PRICE:
            return {"filters": {"price_min": product["price"] / 1.5, "price_max": product["price"] * 1.5}}
        if what == CATEGORY:
            return {"filters": {"category": product["category"]}}
        if what == RADIUS:
            place = {"latitude": product["latitude"], "longitude": product["longitude"]}
            return {"location": place, "radius_miles": _MILES}
        if what == NARROW:
            return {"filters": self._narrow()}
        return {}

    def _narrow(self) -> dict[str, Any]:
        category, prices = self._bands[self._random.integers(len(self._bands))]
        low = int(self._random.integers(max(1, len(prices) - _LEFT + 1)))
        within = prices[low : low + _LEFT]
        return {"category": category, "price_min": float(within[0]), "price_max": float(within[-1])}

    def _having(self, *fields: str) -> list[dict[str, Any]]:
        return [product for product in self._products if all(product[each] not in (None, "") for each in fields)]

    def _new_query(self) -> str:
        """One to three words of a title, or of several titles where those have all been asked for."""
        words: list[str] = []
        while True:
            title = self._titles[self._random.integers(len(self._titles))]
            some = self._random.permutation(len(title))[: self._random.integers(1, 4)]
            words += [title[place] for place in some]
            query = " ".join(words).lower()[:500]
            if query not in self._asked:
                self._asked.add(query)
                return query


def _price_bands(table: pa.Table) -> list[tuple[str, NDArray[np.float64]]]:
    """The prices in order of each category that has no other under it."""
    groups = table.select(["category", "price"]).drop_null().group_by("category").aggregate([("price", "list")])
    names: list[str] = groups["category"].to_pylist()
    prices = [np.sort(np.array(each)) for each in groups["price_list"].to_pylist()]
    leaves = [not any(other.startswith(f"{name} > ") for other in names) for name in names]
    return [(name, each) for name, each, leaf in zip(names, prices, leaves, strict=True) if leaf]
