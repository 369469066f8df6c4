"""The search pipeline: a request to candidates to a page, whatever asks for it."""

from __future__ import annotations

import dataclasses
import secrets
import time
from collections.abc import Callable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime

from mercato.catalogue.query_ids import QuerySigner
from mercato.catalogue.store import Catalogue
from mercato.errors import BoundError
from mercato.ranking.features import Asked
from mercato.ranking.ranker import LeftOut, Ranker, Stage
from mercato.retrieval.expression import Expression
from mercato.retrieval.protocol import Index
from mercato.runs.cache import TTLCache
from mercato.runs.encoder import Encoder
from mercato.search.cut import PageCut, PageHit
from mercato.search.paging import CURSOR_SECONDS, Cursor, CursorSigner, digest, shown_as
from mercato.search.placing import Placing
from mercato.search.policy import Effort, RetrievalPolicy
from mercato.search.request import SearchRequest
from mercato.search.rules import MarketRules
from mercato.search.window import Window

KEPT_BYTES = 32 << 20  # of windows, for their next pages; one that is gone is retrieved again


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of results.

    `query_id` is the same on each page of a search, and signed (`mercato.catalogue.query_ids`).
    `cursor` asks for the next one, None on the last; that one is `truncated` where there may be more than a search
    shows (`RetrievalPolicy.deepest`) or looks at. `total` is how many products match the filters, exactly. `ranked_by`
    is the last ranking stage that ordered the hits; None: they are in retrieval's order. `left_out` is why a stage was
    left out, None where none was. `features_version` says which features the hits of a logged search have.
    """

    query_id: str
    hits: tuple[PageHit, ...]
    cursor: str | None
    truncated: bool
    total: int
    ranked_by: Stage | None
    left_out: LeftOut | None
    features_version: str | None
    took_ms: float


class Searcher:
    """Answers searches; safe to share between threads."""

    def __init__(
        self,
        encoder: Encoder,
        index: Index,
        catalogue: Catalogue,
        policy: RetrievalPolicy,
        ranker: Ranker | None = None,
        rules: MarketRules | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Without a `ranker` hits stay in the index's order; by the `clock` a search begins, and listings have
        their age.
        """
        self._encoder, self._index, self._catalogue, self._policy = encoder, index, catalogue, policy
        self._ranker, self._rules, self._clock = ranker, rules, clock
        self._signer = CursorSigner(catalogue.settings.secret("cursor"))
        self._query_ids = QuerySigner(catalogue.settings.secret("query id"))
        self._windows: TTLCache[str, Window] = TTLCache(KEPT_BYTES, CURSOR_SECONDS, size=lambda window: window.memory)

    def search(self, request: SearchRequest, logged: float = 0.0, most: int | None = None) -> Page:
        """One page of results: the best that has not been shown, exists and still meets the filters.

        Of this share of the searches, `logged`, ranked hits come with the features that they were ordered by. All pages
        together show `most` products, where that is less than the policy's.

        Raises:
            BoundError: the cursor stands behind these, of a search that was begun with more.
            ExpiredError: the cursor is too old.
            MercatoError: the cursor is forged or belongs to another search.
        """
        start = time.perf_counter()
        owner = _digest(request)
        cursor = self._signer.decode(request.cursor, owner) if request.cursor else self._begun()
        deepest = self._policy.deepest if most is None else min(most, self._policy.deepest)
        if len(cursor.shown) >= deepest:
            raise BoundError(f"cursor: without a key that may read, a search shows {deepest:,} products")
        size = min(request.page_size, deepest - len(cursor.shown))
        is_logged = int(cursor.query_id[:8], 16) < logged * 2**32  # it is random, and the same on all pages
        hits, more, window = self._page(request, cursor, size, start, is_logged)
        shown = cursor.and_shown(hit.product["product_id"] for hit in hits)
        # Where more are left than a search shows, or all that a search looks at has changed since it was indexed.
        truncated = len(shown.shown) >= deepest if more else len(hits) < size and not window.whole
        total = self._index.count(request.filters)
        took_ms = round((time.perf_counter() - start) * 1000, 3)
        return Page(
            query_id=self._query_ids.sign(cursor.query_id, cursor.as_of, request.query),
            hits=hits,
            cursor=self._signer.encode(shown, owner) if more and not truncated else None,
            truncated=truncated,
            total=total,
            ranked_by=window.ranked_by,
            left_out=window.left_out,
            features_version=self._ranker.features_version if self._ranker and is_logged else None,
            took_ms=took_ms,
        )

    def _page(
        self, request: SearchRequest, cursor: Cursor, size: int, begun: float, logged: bool
    ) -> tuple[tuple[PageHit, ...], bool, Window]:
        """The next `size` hits, whether more follow, and the window that they are cut from: the one that was kept, then
        deeper ones. What a rule pins comes first, what it buries when nothing else is left.
        """
        rule = self._rules.of(request.query, request.country) if self._rules else None
        pin, bury = (rule.pin, rule.bury) if rule else ((), ())
        pinned = self._pinned(pin, request, cursor)
        skipped = cursor.shown | frozenset(map(shown_as, pin + bury))

        window = self._windows.get(cursor.query_id) if request.cursor else None
        expression: Expression | None = None
        cut, efforts = PageCut(self._catalogue, request, cursor, size + 1), self._efforts(cursor, size)
        while window is None or not _fills(cut, window, pinned, skipped):
            effort = next(efforts, None)
            if effort is None:
                break
            if window is None or effort.digs_deeper_than(window.effort):
                expression = expression or self._expression(request)
                found = self._retrieved(expression, effort)
                window = self._ranked(found, expression, request, cursor, begun, logged)
        assert window is not None  # there is always an effort
        if window.placing is not None:  # sellers may have more, and there is nothing else
            cut.take(window, lambda sift: ((place, None) for place in sift(window.unseen(skipped))))
        if bury and not cut.is_full:
            buried = window.unseen(cursor.shown)  # all others are taken
            cut.take(window, lambda sift: ((place, None) for place in sift(buried)))
        more = len(cut.hits) > size
        if more and (window.ranked_by or not window.left_out):  # what was too late may be in time for the next page
            self._windows.put(cursor.query_id, window.kept())
        return cut.hits[:size], more, window

    def _pinned(self, product_ids: Sequence[str], request: SearchRequest, cursor: Cursor) -> Window | None:
        """Those of the pinned products that have not been shown."""
        ids = [product_id for product_id in product_ids if shown_as(product_id) not in cursor.shown]
        if not ids:
            return None
        return Window(self._index.lookup(self._expression(request), ids), self._policy.effort(0), whole=True)

    def _efforts(self, cursor: Cursor, size: int) -> Iterator[Effort]:
        """The page's effort, made large enough for what was shown; then the deepest."""
        effort, deepest = self._policy.effort(cursor.pages), self._policy.effort(len(self._policy.pages))
        wanted = max(effort.candidates, len(cursor.shown) + size + 1)
        yield dataclasses.replace(effort, candidates=wanted)
        yield dataclasses.replace(deepest, candidates=max(deepest.candidates, wanted))

    def _retrieved(self, expression: Expression, effort: Effort) -> Window:
        levers = {name: getattr(effort, name) for name in ("ef_search", "min_cosine", "text_candidates")}
        hits = self._index.search(expression.model_copy(update=levers), effort.candidates)
        deepest = self._policy.effort(len(self._policy.pages))
        if expression.vector is None:  # the words, or a browse, alone
            return Window(hits, effort, whole=len(hits) < effort.candidates)
        bounded = effort.text_candidates is not None and effort.text_candidates == deepest.text_candidates
        no_more_words = expression.text is None or bounded or int(hits.by_text_H.sum()) < effort.of_words
        no_more_near = effort.min_cosine == deepest.min_cosine and int(hits.by_ann_H.sum()) < effort.candidates
        return Window(hits, effort, whole=no_more_words and no_more_near)

    def _ranked(
        self,
        window: Window,
        expression: Expression,
        request: SearchRequest,
        cursor: Cursor,
        begun: float,
        logged: bool,
    ) -> Window:
        """The window in the ranker's order, exact hits first; as it is where it has nothing to go by, or no time."""
        if self._ranker is None or expression.vector is None or expression.text is None or not len(window.hits):
            return window
        place = request.location
        moment = datetime.fromtimestamp(cursor.as_of, UTC)
        asked = Asked(expression.text, moment, *((place.latitude, place.longitude) if place else (None, None)))
        ranked = self._ranker.rank(asked, window.hits, begun)
        if not ranked.stages:
            return dataclasses.replace(window, left_out=ranked.left_out)
        window = window.ordered(ranked, logged)
        placing = Placing.of(self._ranker, window.hits, moment, cursor.query_id, self._policy.deepest)
        return dataclasses.replace(window, placing=placing)

    def _begun(self) -> Cursor:
        return Cursor(secrets.token_hex(12), int(self._clock()), 0, frozenset())

    def _expression(self, request: SearchRequest) -> Expression:
        query = request.query.strip()
        return Expression(
            vector=self._encoder.encode_queries([query], request.country)[0]
            if query and request.mode != "text"
            else None,
            text=query if query and request.mode != "semantic" else None,
            filters=request.filters,
        )


def _fills(cut: PageCut, window: Window, pinned: Window | None, skipped: Set[bytes]) -> bool:
    """Whether a page is full, begun anew from a window, or nothing else can be found for it."""
    cut.clear()
    if pinned is not None:
        cut.take(pinned, lambda sift: ((place, "pin") for place in sift(iter(range(len(pinned.hits))))))
    cut.take(window, lambda sift: window.placed(skipped, cut.position, sift))
    return cut.is_full or window.whole


def _digest(request: SearchRequest) -> bytes:
    """Name a search by everything that decides its ranking: a cursor says whose it is."""
    values = {each.name: getattr(request, each.name) for each in dataclasses.fields(request)}
    location = request.location and dataclasses.astuple(request.location)
    decisive = values | {"location": location, "filters": request.filters.model_dump(mode="json")}
    return digest({name: value for name, value in decisive.items() if name not in ("cursor", "page_size")})
