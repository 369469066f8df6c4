"""Who writes to a server all the time, whoever is killed, and knows what was acknowledged."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress

import httpx

from tests.support.served import event, ids, wait_until
from tests.support.workers import Client

MOST = 100  # products at once
FIRST_PRICE = 1_000  # above those of the table; no price is asked twice


class Seller:
    """Offers products, prices them anew, withdraws them and logs events: one request after the other.

    A request that was not answered may have been done or not, until it is seen which.
    """

    def __init__(self, client: Client, offered: Mapping[str, str], seed: int) -> None:
        """`offered` are the titles of the market's table."""
        self._client, self._random = client, random.Random(seed)
        self.titles = dict(offered)
        self.prices: dict[str, set[float | None]] = {}  # of what was ever written: which it may have; None: deleted
        self.sent: list[str] = []
        self.logged: list[str] = []  # of those sent, the acknowledged
        self.counts: Counter[str] = Counter()  # of what was acknowledged
        self.statuses: Counter[int] = Counter()  # of all answers to what was written
        self._number = 0

    @contextmanager
    def busy(self) -> Iterator[None]:
        """Write until the block ends."""
        ended, failures = threading.Event(), []

        def work() -> None:
            try:
                while not ended.is_set():
                    self._request()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        try:
            yield
        finally:
            ended.set()
            thread.join()
        assert not failures, failures

    def wait_for_more(self, writes: int = 5) -> None:
        """Wait until so many more writes were acknowledged."""
        wanted = self.counts.total() + writes
        wait_until(lambda: self.counts.total() >= wanted)

    def _request(self) -> None:
        drawn, living = self._random.random(), [key for key, prices in self.prices.items() if prices != {None}]
        if drawn < 0.1:
            self._look(self._random.choice([*self.titles]))
        elif drawn < 0.2:
            self._log()
        elif drawn < 0.35 or len(living) > MOST:
            self._withdraw(self._random.choice(living or [*self.titles]))
        elif drawn < 0.65:
            self._offer(self._random.choices([*self.titles], k=self._random.randint(1, 3)))
        else:
            self._number += 1
            self._offer([f"n{self._number}"])

    def _offer(self, product_ids: Sequence[str]) -> None:
        products = []
        for product_id in dict.fromkeys(product_ids):
            self._number += 1
            self.titles[product_id] = title = self.titles.get(product_id, f"orange hammock {product_id}")
            price = float(FIRST_PRICE + self._number)
            products.append({"product_id": product_id, "title": title, "price": price})
        new = {product["product_id"]: product["price"] for product in products}
        self._change(new, self._answered("POST", "/v1/products", {"products": products}) == 200)

    def _withdraw(self, product_id: str) -> None:
        self._change({product_id: None}, self._answered("DELETE", f"/v1/products/{product_id}") in (200, 404))

    def _log(self) -> None:
        self._number += 1
        self.sent.append(session := f"s{self._number}")
        if self._answered("POST", "/v1/events", {"events": [event(session_id=session)]}) == 200:
            self.logged.append(session)
            self.counts["events"] += 1

    def _look(self, product_id: str) -> None:
        """Search, which shows nothing that was deleted, at any time."""
        with suppress(httpx.TransportError):
            found = self._client.found(self.titles[product_id])
            assert not [key for key in found if self.prices.get(key) == {None}]

    def _change(self, new: Mapping[str, float | None], acknowledged: bool) -> None:
        for product_id, price in new.items():
            if acknowledged:
                self.prices[product_id] = {price}
                self.counts["deletes" if price is None else "upserts"] += 1
            else:
                # what was never written is one of the table's, as it was, or is not there
                self.prices[product_id] = {price, *self.prices.get(product_id, {self._untouched(product_id)})}

    def _untouched(self, product_id: str) -> float | None:
        return 10.0 + int(product_id[1:]) if product_id.startswith("p") else None  # as `small_market` prices them

    def _answered(self, method: str, path: str, body: object = None) -> int | None:
        try:
            status = self._client(method, path, body).status_code
            self.statuses[status] += 1
            return status
        except httpx.TransportError:
            time.sleep(0.02)
            return None

    # What must be true of a server that runs, while nothing is written

    def check(self) -> None:
        """Every product is found at its last price, by search, and nothing else is, once the outbox is empty."""
        self._see()
        wait_until(lambda: self._client.metric("mercato_outbox_depth") == 0)
        assert self._client.metric("mercato_index_failures") == 0
        prices = {key: self._untouched(key) for key in self.titles} | {key: p for key, (p,) in self.prices.items()}
        living = {product_id: price for product_id, price in prices.items() if price is not None}
        missed = [
            (product_id, price)
            for product_id, price in living.items()
            if self._client.found(self.titles[product_id], price_min=price, price_max=price) != [product_id]
        ]
        assert not missed, "lost or stale"
        assert self._client.metric("mercato_index_size") == len(living), "the index holds what is deleted, or doubles"
        assert sorted(self._listed()) == sorted(living.items())

    def _see(self) -> None:
        """Of what was not answered, see what was done; it must be one of the two."""
        for product_id, prices in self.prices.items():
            if len(prices) > 1:
                answer = self._client("GET", f"/v1/products/{product_id}")
                price = answer.json()["price"] if answer.status_code == 200 else None
                assert price in prices, f"{product_id} costs {price}, not one of {prices}"
                self.prices[product_id] = {price}

    def _listed(self) -> list[tuple[str, float]]:
        """All that browsing shows, page by page."""
        body, listed = {"query": "", "page_size": 100}, []
        while True:
            page = self._client("POST", "/v1/search", body).json()
            listed += zip(ids(page), (hit["product"]["price"] for hit in page["hits"]), strict=True)
            if page["cursor"] is None:
                return listed
            body = body | {"cursor": page["cursor"]}
