"""The search pipeline: a request to candidates to a page, whatever asks for it."""

from __future__ import annotations

import dataclasses
import math
import secrets
import time
from dataclasses import dataclass

from mercato.catalogue.products import ProductDocument
from mercato.catalogue.store import Catalogue
from mercato.retrieval.expression import Expression
from mercato.retrieval.protocol import Hit, Index
from mercato.runs.encoder import Encoder
from mercato.search.candidates import Candidates, Slice
from mercato.search.paging import CursorSigner, Position, digest
from mercato.search.policy import RetrievalPolicy
from mercato.search.request import Location, SearchRequest

_EARTH_KM = 6371.0088


@dataclass(frozen=True)
class PageHit:
    """A hit on a page: its place over all pages, counted from 1, and its product as it is stored now."""

    position: int
    hit: Hit
    product: ProductDocument
    distance_km: float | None  # from the searcher's location


@dataclass(frozen=True, kw_only=True)
class Page:
    """A page of results. `cursor` asks for the next one, None on the last; `total` counts what matches the filters."""

    query_id: str
    hits: tuple[PageHit, ...]
    cursor: str | None
    total: int
    took_ms: float


class Searcher:
    """Answers searches; safe to share between threads."""

    def __init__(self, encoder: Encoder, index: Index, catalogue: Catalogue, policy: RetrievalPolicy) -> None:
        self._encoder, self._index, self._catalogue, self._policy = encoder, index, catalogue, policy
        self._signer = CursorSigner(catalogue.settings.secret("cursor"))

    def search(self, request: SearchRequest) -> Page:
        """One page of results.

        Raises:
            MercatoError: the cursor is forged or belongs to another search.
        """
        start = time.perf_counter()
        owner = _digest(request)
        behind = self._signer.decode(request.cursor, owner) if request.cursor else None
        found = self._slice(self._expression(request, later=behind is not None), behind, request.page_size)
        shown, query_id = (behind.shown, behind.query_id) if behind else (0, secrets.token_hex(12))
        cursor = None
        if found.more:
            last = found.candidates[-1]
            end = Position(last.hit.exact, last.score, last.hit.product_id, shown + len(found.candidates), query_id)
            cursor = self._signer.encode(end, owner)
        products = self._catalogue.products.get_many([candidate.hit.product_id for candidate in found.candidates])
        hits = tuple(
            PageHit(position, candidate.hit, product, _distance_km(request.location, product))
            for position, candidate in enumerate(found.candidates, start=shown + 1)
            if (product := products.get(candidate.hit.product_id))  # the index may still hold what was just deleted
        )
        total = self._index.count(request.filters)
        took_ms = round((time.perf_counter() - start) * 1000, 3)
        return Page(query_id=query_id, hits=hits, cursor=cursor, total=total, took_ms=took_ms)

    def _expression(self, request: SearchRequest, later: bool) -> Expression:
        query = request.query.strip()
        return Expression(
            vector=self._encoder.encode_queries([query], request.country)[0]
            if query and request.mode != "text"
            else None,
            text=query if query and request.mode != "semantic" else None,
            filters=request.filters,
            min_cosine=self._policy.min_cosine,
            ef_search=self._policy.later_ef_search if later else self._policy.first_ef_search,
        )

    def _slice(self, expression: Expression, behind: Position | None, size: int) -> Slice:
        """The `size` candidates that follow `behind`: a little more than is shown is retrieved, more until certain."""
        limit: int | None = min((behind.shown if behind else 0) + size + 1, self._policy.depth)
        while limit is not None:
            candidates = Candidates.retrieve(self._index, self._catalogue, expression, limit)
            found = candidates.after(behind, size)
            limit = candidates.next_limit(found, self._policy.depth)
        return found


def _digest(request: SearchRequest) -> str:
    """Name a search by everything that decides its ranking: a cursor says whose it is."""
    values = {each.name: getattr(request, each.name) for each in dataclasses.fields(request)}
    location = request.location and dataclasses.astuple(request.location)
    decisive = values | {"location": location, "filters": request.filters.model_dump(mode="json")}
    return digest({name: value for name, value in decisive.items() if name not in ("cursor", "page_size")})


def _distance_km(location: Location | None, product: ProductDocument) -> float | None:
    """Great-circle distance (haversine)."""
    latitude, longitude = product["latitude"], product["longitude"]
    if location is None or latitude is None or longitude is None:
        return None
    phi, other = math.radians(location.latitude), math.radians(latitude)
    half = math.sin((other - phi) / 2) ** 2
    half += math.cos(phi) * math.cos(other) * math.sin(math.radians(longitude - location.longitude) / 2) ** 2
    return round(2 * _EARTH_KM * math.asin(math.sqrt(min(1.0, half))), 3)
