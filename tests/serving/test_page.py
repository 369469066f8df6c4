"""The page at `/`, driven in the system's Chromium against the real application: catalogue, index, API and all."""

from __future__ import annotations

import io
import re
import shutil
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import uvicorn
from PIL import Image

from mercato.catalogue.store import Catalogue
from mercato.data.market import Market, MarketConfig, write_market_toml
from mercato.data.schema import PRODUCTS
from mercato.retrieval.open import build_index
from mercato.retrieval.protocol import record_from_product
from mercato.runs.query_head import QueryHead
from tests.support.served import application

playwright = pytest.importorskip("playwright.sync_api", reason="the page's tests need playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="left out: there is no Chromium here to drive the page with"),
]

KINDS = {"sofa": "Home > Sofas", "lamp": "Home > Lamps", "bike": "Sport > Bikes"}
COLOURS = {"red": (190, 60, 50), "blue": (60, 90, 170), "green": (70, 130, 90)}
SYNONYMS = {"couch": "sofa", "bicycle": "bike"}
CONCEPTS = [*KINDS, *COLOURS]
SCRIPT = "<img src=x onerror=alert(1)>"
PATIENCE_MS = 90_000  # of a test on a busy machine; nothing waits that long by itself


class ConceptEncoder:
    """Knows three kinds, three colours and two synonyms, and tells products apart by a little noise."""

    dimension = len(CONCEPTS) + 2

    @property
    def query_head(self) -> QueryHead:
        queries = ["lamp", "red couch", "bicycle", f"sofa {SCRIPT}"]
        return QueryHead(queries, 4 * self.encode_queries(queries), np.zeros(len(queries), np.float32))

    def encode_queries(self, queries: Sequence[str], country: str | None = None) -> np.ndarray:
        return np.stack([self._encode(query, noise=0.1) for query in queries])

    def encode_products(self, products: pa.Table | Sequence[Mapping[str, Any]]) -> np.ndarray:
        rows = products.to_pylist() if isinstance(products, pa.Table) else products
        return np.stack(
            [self._encode(f"{row['title']} {dict(row['attributes'] or ())}", len(row["title"])) for row in rows]
        )

    def _encode(self, text: str, noise: float) -> np.ndarray:
        words = [SYNONYMS.get(word, word) for word in text.lower().replace("'", " ").split()]
        vector = np.array([*(float(concept in words) for concept in CONCEPTS), np.sin(noise) / 5, 0.1], np.float32)
        return vector / np.linalg.norm(vector)


@dataclass
class Live:
    address: str
    catalogue: Catalogue

    def events(self, session: str, *actions: str, at_least: int = 1) -> list[dict[str, Any]]:
        """The session's events of these actions, once there are enough of them on disk."""
        deadline = time.monotonic() + PATIENCE_MS / 1000
        while True:
            rows = [row for _, row in self.catalogue.events.oldest(100_000) if row["session_id"] == session]
            rows = [row for row in rows if row["action_name"] in actions]
            if len(rows) >= at_least:
                return rows
            assert time.monotonic() < deadline, f"{len(rows)} of {at_least} {actions} events arrived"
            time.sleep(0.1)


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    folder = tmp_path_factory.mktemp("page")
    products = [_product(number) for number in range(90)]
    write_market_toml(folder, MarketConfig(name="Test Lane"))
    pq.write_table(pa.Table.from_pylist(products, schema=PRODUCTS), folder / "products.parquet")
    market, encoder = Market.open(folder), ConceptEncoder()
    vectors = encoder.encode_products(products)
    records = (record_from_product(row, vector) for row, vector in zip(products, vectors, strict=True))
    build_index(folder / "index", records, encoder.dimension)
    with application(market, encoder, flush_seconds=3600) as app:
        server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
        thread = threading.Thread(target=server.run)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server did not start"
            time.sleep(0.02)
        yield Live(f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}", app.state.services.catalogue)
        server.should_exit = True
        thread.join()


def _product(number: int) -> dict[str, Any]:
    kind, colour = list(KINDS)[number % 3], list(COLOURS)[number // 3 % 3]
    picture = io.BytesIO()
    Image.new("RGB", (48, 48), COLOURS[colour]).save(picture, "PNG")
    return {
        "product_id": f"p/{number:03}",  # a slash, as ids from elsewhere may have one
        "title": f"{SCRIPT} {kind}" if number == 3 else f"{colour} {kind} no. {number}",
        "description": f"A fine {kind}." if number % 2 else None,
        "category": KINDS[kind],
        "price": None if number == 6 else 10.0 * number,
        "currency": "USD",
        "condition": ["new", "good", "fair"][number % 7 % 3],
        "created_at": datetime.now(UTC) - timedelta(days=number),
        "country": "es" if number % 5 == 0 else "us",
        "latitude": 40.4 if number % 5 == 0 else 30.3,
        "longitude": -3.7 if number % 5 == 0 else -97.7,
        "attributes": {"colour": colour},
        "images": [{"bytes": picture.getvalue(), "path": None}] * (number % 4),
    }


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run"]
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=flags)
        yield chromium
        chromium.close()


@pytest.fixture
def visit(live: Live, browser: Any) -> Iterator[Any]:
    """Opens the page in a browser of its own; in the end nothing may have gone wrong or left the origin."""
    contexts, complaints, addresses = [], [], []

    def open_page(
        path: str = "/", width: int = 1280, height: int = 800, before: Any = lambda page: None, **options: Any
    ) -> Any:
        context = browser.new_context(viewport={"width": width, "height": height}, locale="en-US", **options)
        context.set_default_timeout(PATIENCE_MS)
        contexts.append(context)
        page = context.new_page()
        page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.on("request", lambda request: addresses.append(request.url))
        before(page)
        page.goto(live.address + path)
        return page

    open_page.complaints = complaints
    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []
    assert [each for each in addresses if not each.startswith(live.address)] == []


def session_of(page: Any) -> str:
    return page.evaluate("sessionStorage.getItem('mercato.session')")


def search(page: Any, query: str) -> None:
    page.fill("#query", query)
    page.press("#query", "Enter")
    expect(page.locator("#counts")).to_contain_text("ms")


def expect(locator: Any) -> Any:
    playwright.expect.set_options(timeout=PATIENCE_MS)
    return playwright.expect(locator)


def ids(page: Any, scope: str = ".grid") -> list[str]:
    return page.locator(f"{scope} li").evaluate_all("cards => cards.map(card => card.dataset.id)")


def test_typing_a_query_shows_cards(visit: Any) -> None:
    page = visit()
    expect(page.locator("#query")).to_be_focused()
    search(page, "red sofa")
    expect(page.locator(".card")).to_have_count(24)
    first = page.locator(".card").first
    expect(first).to_contain_text("red sofa")
    expect(first).to_contain_text("$")
    expect(page.locator("#counts")).to_contain_text("90 listings in all")
    expect(page.locator("#live")).to_contain_text("24 shown")
    expect(page.locator(".photo.loaded").first).to_be_visible()
    assert page.url.endswith("/?q=red+sofa")
    assert page.title() == "red sofa · Test Lane"


def test_a_listing_is_text_never_markup(visit: Any) -> None:
    page = visit("/?q=sofa&max=40&min=20")
    expect(page.get_by_role("heading", name=SCRIPT)).to_be_visible()


def test_filters_change_results_and_the_address(visit: Any) -> None:
    page = visit("/?q=red")
    expect(page.locator(".card")).to_have_count(24)
    page.get_by_role("button", name="Home", exact=True).click()
    page.get_by_role("button", name="Sofas", exact=True).click()
    page.get_by_role("button", name="blue", exact=True).click()
    page.get_by_label("New", exact=True).check()
    page.get_by_label("From price in USD").fill("100")
    page.get_by_label("From price in USD").press("Enter")
    chips = page.locator("#active li")
    expect(chips).to_have_count(5)  # four filters and "Clear all"
    expect(page.locator("#counts")).to_contain_text("4 listings match")
    expect(page.locator(".card")).to_have_count(4)
    for title in page.locator(".card h3").all_inner_texts():
        assert title.startswith("blue sofa")
    page.reload()
    expect(page.locator(".card")).to_have_count(4)
    page.go_back()
    expect(page.locator("#active li")).to_have_count(4)
    page.get_by_role("button", name="Clear all").click()
    expect(page.locator(".card")).to_have_count(24)


def test_a_place_and_a_radius_in_miles(visit: Any) -> None:
    page = visit("/?q=sofa", geolocation={"latitude": 40.41234, "longitude": -3.71}, permissions=["geolocation"])
    page.get_by_role("button", name="Use my location").click()
    expect(page.locator("#active")).to_contain_text("within 50 mi of my location")
    expect(page.locator("#counts")).to_contain_text("18 listings match")
    expect(page.locator(".card").first).to_contain_text("Spain")
    expect(page.locator(".card").first).to_contain_text("mi")
    assert "near=40.41%2C-3.71" in page.url  # rounded: an address may be shared


def test_prices_the_wrong_way_round_are_read_the_right_way(visit: Any) -> None:
    page = visit("/?q=sofa&min=300&max=100")
    expect(page.locator("#counts")).to_contain_text("21 listings match")


def test_browsing_without_a_query(visit: Any) -> None:
    page = visit()
    page.get_by_role("button", name="Sport", exact=True).click()
    expect(page.get_by_role("heading", name="Newest listings")).to_be_visible()
    expect(page.locator(".card").first).to_contain_text("bike no. 2")
    page.locator(".why summary").first.click()
    expect(page.locator(".why-panel").first).to_contain_text("Listed by the filters alone")


def test_load_more_appends_without_duplicates(visit: Any) -> None:
    page = visit("/?q=red+sofa")
    expect(page.locator(".card")).to_have_count(24)
    for shown in (48, 72, 90):
        page.get_by_role("button", name="Load more").click()
        expect(page.locator(".card")).to_have_count(shown)
        expect(page.locator(".card-link").nth(24 * ((shown - 1) // 24))).to_be_focused()
    assert len(set(ids(page))) == 90
    expect(page.get_by_role("button", name="Load more")).to_be_hidden()


def test_why_shows_both_scores_and_says_who_found_it(visit: Any) -> None:
    page = visit("/?q=red+sofa")
    page.locator(".why summary").first.click()
    panel = page.locator(".why-panel").first
    expect(panel).to_contain_text("Found by meaning and by words")
    expect(panel).to_contain_text("Meaning cosine")
    expect(panel).to_contain_text("Words BM25")
    cosine, bm25 = (float(text) for text in panel.locator(".scores").first.locator("b").all_inner_texts())
    assert 0.9 < cosine <= 1 and bm25 > 0
    expect(panel).to_contain_text("Position 1")
    search(page, "couch")
    page.locator(".why summary").first.click()
    expect(page.locator(".why-panel").first).to_contain_text("no word of the query is in the listing")


def test_why_shows_what_each_word_and_field_adds(visit: Any) -> None:
    page = visit("/?q=red+couch+please")
    page.locator(".why summary").first.click()
    parts = page.locator(".why-panel").first.get_by_role("region", name="What brings them together")
    asked, offered = parts.locator("dl").nth(0), parts.locator("dl").nth(1)
    expect(asked.locator("dt")).to_have_text(["“red”", "“couch” not in the listing", "“please” not in the listing"])
    red, couch, please = asked.locator("b").all_inner_texts()
    assert red[0] == couch[0] == "+" and please == "0.00"
    assert asked.locator("i").evaluate_all("bars => bars.map(bar => bar.getBoundingClientRect().width > 5)") == [
        True,
        True,
        False,
    ]
    assert set(offered.locator("dt").all_inner_texts()) <= {"Title", "Attributes"}
    expect(offered.locator("dt").first).to_have_text("Title")

    search(page, "red")  # the kind is more than was asked for: without the title the colour of the attributes remains
    page.locator(".why summary").first.click()
    title = page.locator(".why-panel").first.locator(".parts dl").nth(1)
    expect(title.locator("b").first).to_contain_text("−")
    expect(title.locator("i").first).to_have_class("apart")


def test_a_pair_that_cannot_be_explained_leaves_the_rest_of_the_panel(visit: Any) -> None:
    page = visit(
        "/?q=red+sofa", before=lambda page: page.route("**/v1/explain", lambda route: route.fulfill(status=503))
    )
    with page.expect_response("**/v1/explain"):
        page.locator(".why summary").first.click()
    expect(page.locator(".why-panel").first).to_contain_text("Meaning cosine")
    expect(page.locator(".parts").first).to_be_hidden()
    assert all("503" in complaint for complaint in visit.complaints)
    visit.complaints.clear()


def test_the_dialog_explains_the_pair_too_and_bm25s_column_does_not(visit: Any) -> None:
    page = visit("/?q=red+sofa&compare=1")
    page.locator(".ours .card-link").first.click()
    expect(page.locator("#detail").get_by_role("region", name="What brings them together")).to_contain_text("“sofa”")
    page.keyboard.press("Escape")
    page.locator(".theirs .card-link").first.click()
    expect(page.locator("#detail")).to_contain_text("BM25’s own list")
    expect(page.locator("#detail .parts")).to_have_count(0)


def test_compare_shows_two_columns_and_where_they_differ(visit: Any, live: Live) -> None:
    page = visit("/?q=couch+red")
    page.get_by_role("button", name="Compare with BM25").click()
    ours, theirs = page.get_by_role("region", name="Mercato"), page.get_by_role("region", name="BM25")
    expect(ours.locator("li")).to_have_count(24)
    expect(theirs.locator("li")).to_have_count(24)
    assert all("sofa" in title for title in ours.locator("h3").all_inner_texts()[:10])
    both = set(ids(page, ".ours")) & set(ids(page, ".theirs"))
    expect(page.locator(".ours .alone")).to_have_count(24 - len(both))
    expect(page.locator(".lines path")).to_have_count(len(both))
    expect(page.locator(".compare-note")).to_contain_text(f"{len(both)} product")
    assert "compare=1" in page.url

    theirs.locator(".card-link").nth(1).click()
    expect(page.locator("#detail")).to_contain_text("BM25’s own list")
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    first = ours.locator("li").first.get_attribute("data-id")
    ours.locator(".card-link").first.click()
    expect(page.locator("#detail")).to_be_visible()
    clicks = live.events(session_of(page), "click")
    assert [click["product_id"] for click in clicks] == [first]  # BM25's column is not logged


def test_compare_with_a_word_that_no_listing_has(visit: Any) -> None:
    page = visit("/?q=couch&compare=1")
    expect(page.get_by_role("region", name="BM25")).to_contain_text("no listing has any of these words")
    expect(page.get_by_role("region", name="Mercato").locator("li")).to_have_count(24)


def test_the_product_dialog_and_its_address(visit: Any) -> None:
    page = visit("/?q=red+sofa")
    link = page.locator(".card", has=page.locator(".photo-count")).first.locator(".card-link")
    title = link.inner_text()
    link.click()
    dialog = page.get_by_role("dialog")
    expect(dialog.get_by_role("heading", name=title)).to_be_visible()
    expect(dialog).to_contain_text("Why this result")
    dialog.get_by_role("button", name="Next photo").click()
    expect(dialog.locator(".thumbs button").nth(1)).to_have_attribute("aria-current", "true")
    assert "product=p%2F" in page.url
    address = page.url
    page.go_back()
    expect(dialog).to_be_hidden()
    expect(link).to_be_focused()
    shared = visit(address.removeprefix(address.split("/?")[0]))
    expect(shared.get_by_role("dialog").get_by_role("heading", name=title)).to_be_visible()
    shared.keyboard.press("Escape")
    expect(shared.get_by_role("dialog")).to_be_hidden()
    expect(shared).not_to_have_url(re.compile("product="))


def test_why_says_where_each_stage_put_a_hit(visit: Any) -> None:
    """And nothing of stages where nothing ranked."""

    def ranked(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        for hit in body["hits"]:
            hit["places"] = {"retrieval": 1200, "trees": 2, "dlrm": hit["position"] + 8}
        route.fulfill(response=answer, json=body)

    page = visit("/?q=red+sofa", before=lambda page: page.route("**/v1/search", ranked))
    page.locator(".card .why summary").first.click()
    stages = page.locator(".card .why .stages").first
    assert stages.locator("dt").all_inner_texts() == ["Retrieval found", "Stage 1 trees", "Stage 2 network"]
    assert stages.locator("b").all_inner_texts() == ["no. 1,200", "no. 2", "no. 9"]
    assert stages.locator(".moved").all_inner_texts() == ["", "up 1,198", "down 7"]
    plain = visit("/?q=red+sofa")
    plain.locator(".card .why summary").first.click()
    expect(plain.locator(".card .why .scores").first).to_be_visible()
    expect(plain.locator(".card .why .stages")).to_have_count(0)


def test_a_badge_says_what_else_placed_a_hit(visit: Any) -> None:
    """A rule or a draw, and nothing of the others; why says so too."""

    def placed(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        body["hits"][0] |= {"placed_by": "pin", "found_by": []}
        body["hits"][1]["placed_by"] = "exploration"
        route.fulfill(response=answer, json=body)

    page = visit("/?q=red+sofa", before=lambda page: page.route("**/v1/search", placed))
    expect(page.locator(".card .placed")).to_have_count(2)
    assert page.locator(".card .placed").all_inner_texts() == ["Pinned", "New listing"]
    for card, told in ((0, ["has pinned it", "found by a rule of this market"]), (1, ["was drawn for a new listing"])):
        page.locator(".card .why summary").nth(card).click()
        for each in told:
            expect(page.locator(".card .why-panel").nth(card)).to_contain_text(each)
    expect(page.locator(".card .why-panel .scores").first).to_be_visible()  # those of the pinned one
    expect(visit("/?q=red+sofa").locator(".card .placed")).to_have_count(0)


def test_what_placed_a_hit_goes_with_its_impression(visit: Any, live: Live) -> None:
    def placed(route: Any) -> None:
        answer = route.fetch()
        body = answer.json()
        body["hits"][0]["placed_by"], body["hits"][2]["placed_by"] = "pin", "exploration"
        route.fulfill(response=answer, json=body)

    page = visit("/?q=red+sofa", height=700, before=lambda page: page.route("**/v1/search", placed))
    expect(page.locator(".card .placed")).to_have_count(2)
    rows = live.events(session_of(page), "impression", at_least=4)
    assert {row["position"]: row["placed_by"] for row in rows if row["position"] <= 4} == {
        1: "pin", 2: None, 3: "exploration", 4: None,
    }  # fmt: skip


def test_a_products_likely_searches_start_them(visit: Any) -> None:
    page = visit("/?q=red+sofa&country=us&product=p%2F009")
    dialog = page.get_by_role("dialog")
    chips = dialog.get_by_role("region", name="Likely searches").get_by_role("button")
    expect(chips).to_have_count(2)  # of four: a red sofa is hardly a lamp or a bicycle
    assert chips.all_inner_texts() == ["red couch", f"sofa {SCRIPT}"]  # text, never markup
    chips.first.click()
    expect(dialog).to_be_hidden()
    expect(page.locator("#heading")).to_contain_text("red couch")
    expect(page).to_have_url(re.compile(r"/\?q=red\+couch$"))
    expect(page.locator(".card").first).to_contain_text("red sofa")
    page.go_back()
    expect(dialog.get_by_role("heading", name="red sofa no. 9")).to_be_visible()


def test_a_model_without_a_head_is_not_asked_for_likely_searches(visit: Any) -> None:
    def headless(route: Any) -> None:
        told = route.fetch().json()
        route.fulfill(json=told | {"model": told["model"] | {"queries": 0}})

    asked: list[str] = []
    page = visit("/?q=red+sofa", before=lambda page: page.route("**/v1/market", headless))
    page.on("request", lambda request: asked.append(request.url))
    page.locator(".card-link").first.click()
    expect(page.get_by_role("dialog")).to_contain_text("Why this result")
    expect(page.get_by_role("dialog")).not_to_contain_text("People would search")
    page.wait_for_load_state("networkidle")
    assert not [url for url in asked if "predicted-queries" in url]


@pytest.mark.parametrize("path", ["/", "/?q=red+sofa", "/?q=red+sofa&compare=1", "/?q=red+sofa&product=p%2F003"])
def test_a_phone_scrolls_only_down(visit: Any, path: str) -> None:
    page = visit(path, width=360, height=740)
    drawn = "body.home" if path == "/" else "#detail[open]" if "product" in path else "#results li"
    expect(page.locator(drawn).first).to_be_visible()
    page.evaluate("document.querySelectorAll('.why').forEach(why => { why.open = true; })")
    assert page.evaluate("document.documentElement.scrollWidth") <= 360


def test_filters_are_a_drawer_on_a_phone(visit: Any) -> None:
    page = visit("/?q=red+sofa", width=390, height=844)
    expect(page.locator("#filters")).to_be_hidden()
    page.get_by_role("button", name="Filters", exact=True).click()
    page.get_by_label("Good", exact=True).check()
    expect(page.locator("#filter-count")).to_have_text("1")
    page.get_by_role("button", name="Show results").click()
    expect(page.locator("#filters")).to_be_hidden()
    expect(page.locator(".card").first).to_contain_text("Good")


def test_everything_by_keyboard(visit: Any) -> None:
    page = visit()
    page.locator("#main").evaluate("() => document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("green lamp")
    page.keyboard.press("Enter")
    links = page.locator(".card-link")
    expect(links).to_have_count(24)
    page.keyboard.press("ArrowDown")
    expect(links.nth(0)).to_be_focused()
    page.keyboard.press("ArrowRight")
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(links.nth(5)).to_be_focused()  # four cards a row
    page.keyboard.press("k")
    expect(links.nth(4)).to_be_focused()
    page.keyboard.press("j")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Enter")
    expect(page.locator("#detail")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#detail")).to_be_hidden()
    expect(links.nth(1)).to_be_focused()
    page.keyboard.press("/")
    expect(page.locator("#query")).to_be_focused()


def test_events_arrive_with_the_query_id(visit: Any, live: Live) -> None:
    page = visit(height=700)
    with page.expect_response("**/v1/search") as answer:
        search(page, "red sofa")
    query_id, hits = answer.value.json()["query_id"], answer.value.json()["hits"]
    visible = [hit["product"]["product_id"] for hit in hits[:4]]  # the first row; of the second too little shows
    page.locator(".card-link").nth(1).click()
    page.get_by_role("button", name="Message seller").click()
    expect(page.locator("#detail")).to_contain_text("No message was sent")

    session = session_of(page)
    (message,) = live.events(session, "message")
    rows = live.events(session, "search", "impression", "click", "message", at_least=7)
    assert {row["query_id"] for row in rows} == {query_id}
    assert {row["user_query"] for row in rows} == {"red sofa"}
    assert {row["country"] for row in rows} == {"us"}  # the visitor's, with which the search was made
    impressions = {row["product_id"]: row["position"] for row in rows if row["action_name"] == "impression"}
    assert impressions == {product_id: position for position, product_id in enumerate(visible, start=1)}
    (click,) = (row for row in rows if row["action_name"] == "click")
    assert (click["product_id"], click["position"]) == (visible[1], 2)
    assert message["product_id"] == visible[1]
    chain = [row["action_name"] for row in sorted(rows, key=lambda row: row["timestamp"])]
    assert chain.index("search") < chain.index("click") < chain.index("message")


def test_a_number_in_the_query_is_found_first_and_why_says_so(visit: Any) -> None:
    page = visit("/?q=sofa+no+84")
    expect(page.locator(".card")).to_have_count(24)
    assert ids(page)[0] == "p/084"
    page.locator(".why summary").first.click()
    expect(page.locator(".why-panel").first).to_contain_text("every word of the query is in this listing, and one of")


def test_an_impression_is_logged_once_and_only_when_seen(visit: Any, live: Live) -> None:
    page = visit("/?q=green+bike", height=700)
    expect(page.locator(".card")).to_have_count(24)
    session, shown = session_of(page), ids(page)
    assert len(live.events(session, "impression", at_least=4)) == 4
    page.locator(".card").last.scroll_into_view_if_needed()
    page.locator(".card").first.scroll_into_view_if_needed()
    page.locator(".card").last.scroll_into_view_if_needed()
    page.goto("about:blank")  # what is not yet sent leaves with a beacon
    seen = [row["product_id"] for row in live.events(session, "impression", at_least=5)]
    assert len(seen) == len(set(seen)) < len(shown)
    assert shown[-1] in seen


def test_nothing_found_offers_a_way_on(visit: Any) -> None:
    page = visit("/?q=sofa&min=5000&a.colour=red")
    expect(page.get_by_role("heading", name="Nothing found")).to_be_visible()
    page.get_by_role("button", name="Search without the filters").click()
    expect(page.locator(".card")).to_have_count(24)


def test_a_busy_market_says_so_and_is_asked_again(visit: Any) -> None:
    page = visit()
    page.route(
        "**/v1/search", lambda route: route.fulfill(status=503, headers={"Retry-After": "2"}, body="{}"), times=1
    )
    page.fill("#query", "sofa")
    page.press("#query", "Enter")
    expect(page.get_by_role("alert")).to_contain_text("The market is busy")
    expect(page.get_by_role("alert")).to_contain_text("2 seconds")
    page.get_by_role("button", name="Try again").click()
    expect(page.locator(".card")).to_have_count(24)
    assert all("503" in complaint for complaint in visit.complaints)
    visit.complaints.clear()  # the browser's own line about the 503


def test_an_unknown_product_address_is_no_dead_end(visit: Any) -> None:
    page = visit("/?q=sofa&product=gone")
    expect(page.locator(".card")).to_have_count(24)
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert all("404" in complaint for complaint in visit.complaints)
    visit.complaints.clear()


def test_dark_and_calm_are_respected(visit: Any) -> None:
    page = visit("/?q=sofa", color_scheme="dark", reduced_motion="reduce")
    expect(page.locator(".card").first).to_be_visible()
    red, green, blue = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert max(red, green, blue) < 60
    assert page.evaluate("getComputedStyle(document.querySelector('.card')).transitionDuration") in (
        "1e-05s",
        "0.00001s",
    )


def test_a_listing_opened_in_a_new_tab_is_a_click_too(visit: Any, live: Live) -> None:
    page = visit("/?q=blue+lamp")
    expect(page.locator(".card")).to_have_count(24)
    with page.context.expect_page() as opened:
        page.locator(".card-link").first.click(modifiers=["Control"])
    expect(opened.value.get_by_role("dialog")).to_be_visible()
    expect(page.get_by_role("dialog")).to_be_hidden()
    assert [row["position"] for row in live.events(session_of(page), "click")] == [1]


def test_who_types_before_the_market_has_answered_loses_nothing(visit: Any) -> None:
    held: list[Any] = []
    page = visit(before=lambda page: page.route("**/v1/market", lambda route: held.append(route)))
    page.locator("#main").evaluate("() => document.activeElement.blur()")
    page.keyboard.press("/")
    page.keyboard.type("green lamp")
    held[0].continue_()
    expect(page.locator("#about")).to_contain_text("90 listings")
    expect(page.locator("#query")).to_have_value("green lamp")
    page.keyboard.press("Enter")
    expect(page.locator(".card")).to_have_count(24)


def test_a_search_right_after_closing_the_dialog_is_not_undone(visit: Any) -> None:
    page = visit("/?q=green+lamp")
    page.locator(".card-link").first.click()
    expect(page.locator("#detail")).to_be_visible()
    page.evaluate("""() => {
        const dialog = document.getElementById("detail");
        dialog.addEventListener("close", () => {  // the browser is on its way back, and not there yet
            document.getElementById("query").value = "red sofa";
            document.getElementById("search").requestSubmit();
        });
        dialog.close();
    }""")
    expect(page.locator("#heading")).to_contain_text("red sofa")
    expect(page).to_have_url(re.compile(r"/\?q=red\+sofa$"))
    expect(page.locator("#detail")).to_be_hidden()
