"""One search request to one page of results: encode, ask the index, cut the page, fetch the products."""

from __future__ import annotations

import math
import secrets
import time
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from urllib.parse import quote

from mercato.catalogue.store import Catalogue, Product
from mercato.retrieval.expression import Expression, Filters, GeoRadius
from mercato.retrieval.protocol import Hit, Index
from mercato.runs.encoder import Encoder
from mercato.search.paging import CursorSigner, Position, digest
from mercato.serving.bodies import LocationIn, SearchIn

_EARTH_KM = 6371.0088


@dataclass(frozen=True)
class PagePolicy:
    """How hard to look: the first page is cheap, later pages, which few ask for, dig deeper (Que2Search §6.4)."""

    min_cosine: float | None = None  # the least cosine of a hit found by its vector
    first_ef_search: int = 96  # HNSW's ef on the first page
    later_ef_search: int = 256  # and on every page after it
    depth: int = 1000  # no search shows more hits than this


class Searcher:
    """Answers searches; safe to share between threads."""

    def __init__(self, encoder: Encoder, index: Index, catalogue: Catalogue, policy: PagePolicy) -> None:
        self._encoder, self._index, self._catalogue, self._policy = encoder, index, catalogue, policy
        self._signer = CursorSigner(catalogue.secret("cursor"))

    def search(self, request: SearchIn) -> dict[str, Any]:
        """One page, in the JSON of `SearchOut`.

        Raises:
            MercatoError: the cursor is forged or belongs to another search.
        """
        start = time.perf_counter()
        owner = digest(request.model_dump(exclude={"cursor", "page_size"}))
        behind = self._signer.decode(request.cursor, owner) if request.cursor else None
        expression = self._expression(request, later=behind is not None)
        page, more = self._page(expression, behind, request.page_size)
        shown, query_id = (behind.shown, behind.query_id) if behind else (0, secrets.token_hex(12))
        cursor = None
        if more:
            last = page[-1]
            position = Position(last.hit.exact, last.score, last.hit.product_id, shown + len(page), query_id)
            cursor = self._signer.encode(position, owner)
        products = self._catalogue.get_many([ranked.hit.product_id for ranked in page])
        return {
            "query_id": query_id,
            "hits": [
                _hit(position, ranked.hit, products[ranked.hit.product_id], request.location)
                for position, ranked in enumerate(page, start=shown + 1)
                if ranked.hit.product_id in products  # the index may still hold what has just been deleted
            ],
            "cursor": cursor,
            "total": self._index.count(expression.filters),
            "took_ms": round((time.perf_counter() - start) * 1000, 3),
        }

    def _expression(self, request: SearchIn, later: bool) -> Expression:
        query = request.query.strip()
        return Expression(
            vector=self._encoder.encode_queries([query], request.country)[0]
            if query and request.mode != "text"
            else None,
            text=query if query and request.mode != "semantic" else None,
            filters=_filters(request),
            min_cosine=self._policy.min_cosine,
            ef_search=self._policy.later_ef_search if later else self._policy.first_ef_search,
        )

    def _page(self, expression: Expression, behind: Position | None, size: int) -> tuple[list[_Ranked], bool]:
        """The `size` hits that follow `behind` in the order (exact first, score down, id up), and whether more follow.

        The index is asked for a little more than is shown, and for more until the page is certain. While the leading
        part (ANN, or text where there is no vector) has more to give, that is where the page's last score lies above
        the last one it gave, so that no equal score is cut off. Once it has given all, only its own hits are certain:
        what follows (words matched below `min_cosine`) has its order at full depth. Exact hits always come all at once.
        """
        lead = "ann" if expression.vector is not None else "text"
        browse = expression.vector is None and expression.text is None
        key = (not behind.exact, -behind.score, behind.product_id) if behind else (False, -math.inf, "")
        limit = min((behind.shown if behind else 0) + size + 1, self._policy.depth)
        while True:
            ranking = self._rank(self._index.search(expression, limit), expression, browse)
            following = [ranked for ranked in ranking if ranked.key > key]
            page, more = following[:size], len(following) > size
            leading = [ranked for ranked in ranking if browse or lead in ranked.hit.found_by]
            others = sum("text" in ranked.hit.found_by for ranked in ranking) if lead == "ann" else 0
            if limit == self._policy.depth or (len(leading) < limit and others < limit):
                return page, more
            if len(leading) < limit:
                if more and all(ranked.hit.exact or lead in ranked.hit.found_by for ranked in page):
                    return page, True
                limit = self._policy.depth
            elif more and (page[-1].hit.exact or page[-1].score > leading[-1].score):
                return page, True
            else:
                limit = min(limit * 2, self._policy.depth)

    def _rank(self, hits: list[Hit], expression: Expression, browse: bool) -> list[_Ranked]:
        if browse:
            products = self._catalogue.get_many([hit.product_id for hit in hits])
            ranking = [_Ranked(_moment(products.get(hit.product_id)), hit) for hit in hits]
        else:
            by_text = expression.vector is None
            ranking = [_Ranked(hit.bm25 if by_text else hit.cosine, hit) for hit in hits]
        return sorted(ranking, key=lambda ranked: ranked.key)


@dataclass(frozen=True, slots=True)
class _Ranked:
    score: float  # what decides its place: cosine, BM25, or in a browse the time it was created
    hit: Hit

    @property
    def key(self) -> tuple[bool, float, str]:
        return not self.hit.exact, -self.score, self.hit.product_id


def product_json(product: Product) -> dict[str, Any]:
    """A catalogue document in the JSON of `ProductOut`: its pictures as addresses on this server."""
    address = f"/v1/products/{quote(product['product_id'], safe='')}/images"
    shown = {name: value for name, value in product.items() if name != "pictures"}
    return shown | {"images": [f"{address}/{position}" for position in range(product["pictures"])]}


def _hit(position: int, hit: Hit, product: Product, location: LocationIn | None) -> dict[str, Any]:
    return {
        "position": position,
        "product": product_json(product),
        "cosine": hit.cosine,
        "bm25": hit.bm25,
        "found_by": hit.found_by,
        "exact": hit.exact,
        "distance_km": _distance_km(location, product["latitude"], product["longitude"]),
    }


def _moment(product: Product | None) -> int:
    """When a product was created, in whole seconds as in the index; one that does not say is the oldest."""
    created = product and product["created_at"]
    return int(datetime.fromisoformat(created).timestamp()) if created else 0


def _filters(request: SearchIn) -> Filters:
    given, near = request.filters, None
    if request.location is not None and request.radius is not None:
        near = GeoRadius(
            latitude=request.location.latitude, longitude=request.location.longitude, radius_km=request.radius
        )
    return Filters(
        category=given.category,
        price_min=given.price_min,
        price_max=given.price_max,
        conditions=tuple(given.condition or ()),
        country=given.country,
        seller_id=given.seller_id,
        attributes=dict(given.attributes or {}),
        near=near,
    )


def _distance_km(location: LocationIn | None, latitude: float | None, longitude: float | None) -> float | None:
    """Great-circle distance (haversine)."""
    if location is None or latitude is None or longitude is None:
        return None
    phi, other = math.radians(location.latitude), math.radians(latitude)
    half = math.sin((other - phi) / 2) ** 2
    half += math.cos(phi) * math.cos(other) * math.sin(math.radians(longitude - location.longitude) / 2) ** 2
    return round(2 * _EARTH_KM * math.asin(math.sqrt(min(1.0, half))), 3)
