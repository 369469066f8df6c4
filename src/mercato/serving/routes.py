"""The HTTP API: `create_app` joins a market, an encoder, an index and a catalogue to one FastAPI application."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from fastapi import FastAPI, HTTPException, Request, Response, Security
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse
from fastapi.security import APIKeyHeader
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException as StarletteHTTPException

from mercato.catalogue.events import event_rows
from mercato.catalogue.images import checked_picture, market_picture
from mercato.catalogue.store import Catalogue, Entry, Picture
from mercato.catalogue.worker import Ingestion, product_rows
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.retrieval.expression import Filters
from mercato.retrieval.protocol import Index
from mercato.runs.cache import TTLCache
from mercato.runs.encoder import Encoder
from mercato.search.explain import Explainer
from mercato.search.market_info import market_info
from mercato.search.pipeline import PagePolicy, Searcher, product_json
from mercato.search.query_prediction import Understanding
from mercato.serving import bodies
from mercato.serving.docs_page import docs_page
from mercato.serving.executor import BoundedExecutor, OverloadError
from mercato.serving.guard import RequestGuard
from mercato.serving.prometheus import Metrics

_PAGE = Path(__file__).parent / "page"
_DESCRIPTION = "Search of one marketplace: (ANN ∨ text) ∧ filters. Writes need the header X-API-Key."


@dataclass(frozen=True)
class Settings:
    """How a server runs; the defaults suit one small machine."""

    api_key: str = field(default_factory=lambda: secrets.token_urlsafe(24), repr=False)  # for writes
    model_name: str = "model"  # what `GET /v1/market` calls the encoder
    index_name: str = "index"  # names the index's content; under a new name the API's own writes are indexed again
    policy: PagePolicy = field(default_factory=PagePolicy)
    searches: int = 4  # run at once
    waiting: int = 64  # and wait at most, for searches and for writes each
    timeout_seconds: float = 10.0
    batch: int = 32  # products embedded at once
    outbox_bound: int = 100_000  # products waiting to be embedded beyond which writes are refused
    image_dimension: int = 0  # of the `image_embeddings` that the encoder reads; 0 where it reads none
    flush_seconds: float = 10.0  # between two moves of events to the market's table


def create_app(
    market: Market, encoder: Encoder, index: Index, catalogue: Catalogue, settings: Settings | None = None
) -> FastAPI:
    """The application. Its start begins ingestion, its end moves the last events; it closes nothing it was given.

    Args:
        market: names the market; its events table grows with the events received.
        encoder: embeds queries and products.
        index: is searched, and kept up to date with the catalogue.
        catalogue: holds the products (`mercato.catalogue.seeding.seed` fills it) and everything written.
        settings: the defaults where None, with an API key made for this process.
    """
    settings = settings or Settings()
    metrics = Metrics()
    searcher = Searcher(encoder, index, catalogue, settings.policy)
    explainer = Explainer(encoder, catalogue)
    understanding = Understanding(encoder, catalogue)
    ingestion = Ingestion(catalogue, encoder, index, market.path / "events", settings.batch, settings.flush_seconds)
    reading = BoundedExecutor("search", settings.searches, settings.waiting, settings.timeout_seconds)
    writing = BoundedExecutor("write", 2, settings.waiting, settings.timeout_seconds)
    # Apart: searches must not wait for an embedding, nor an embedding for explanations, which anyone may ask for.
    embedding = BoundedExecutor("embed", 1, 8, settings.timeout_seconds)
    explaining = BoundedExecutor("explain", 1, 4, settings.timeout_seconds)
    facts = market_info(market, catalogue.documents())
    page = _PageFiles(directory=_PAGE)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if catalogue.setting("index") != settings.index_name:
            catalogue.replay()
            catalogue.set("index", settings.index_name)
        ingestion.start()
        yield
        reading.close()
        writing.close()
        embedding.close()
        explaining.close()
        ingestion.stop()

    app = FastAPI(
        title="Mercato", version="1", description=_DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.add_middleware(RequestGuard, api_key=settings.api_key, metrics=metrics)
    _answer_problems(app)
    _count_things(metrics, encoder, index, catalogue)
    key = [Security(APIKeyHeader(name="X-API-Key", auto_error=False))]  # for OpenAPI; the door checks it

    @app.post("/v1/search", response_model=bodies.SearchOut, responses=_problems(400, 413, 422, 503))
    async def search(body: bodies.SearchIn) -> Response:
        """Search; or browse the filtered catalogue with an empty query."""
        return await reading.run(lambda: _json(searcher.search(body)))

    @app.post("/v1/explain", response_model=bodies.ExplainOut, responses=_problems(400, 404, 413, 422, 503))
    async def explain(body: bodies.ExplainIn) -> Response:
        """What brings a query and a product together, word by word and field by field."""
        return await explaining.run(lambda: _json(explainer.explain(body)))

    @app.post(
        "/v1/products",
        response_model=bodies.AcceptedOut,
        dependencies=key,
        responses=_problems(400, 401, 413, 422, 503),
    )
    async def upsert(body: bodies.ProductsIn) -> Response:
        """Write products. They are on disk when this answers, and searchable about a second later."""

        def write() -> Response:
            if catalogue.outbox_depth() >= settings.outbox_bound:
                raise OverloadError("too many products wait to be embedded; try again later")
            catalogue.upsert(_entries(body.products, settings.image_dimension))
            ingestion.wake()
            return _json({"accepted": len(body.products)})

        return await writing.run(write)

    @app.get(
        "/v1/products/{product_id:path}/images/{position}",
        response_class=Response,
        responses=_problems(400, 404, 422, 503)
        | {200: {"content": {f"image/{kind}": {} for kind in ("jpeg", "png", "webp")}}},
    )
    async def image(product_id: bodies.Word, position: bodies.PicturePosition) -> Response:
        """One of a product's pictures; 0 is the first."""

        def read() -> Response:
            picture = catalogue.picture(product_id, position)
            if picture is None:
                raise HTTPException(404, "no such picture")
            kind, content = picture.content_type, picture.content
            if picture.path is not None:
                kind, content = market_picture(market.path, picture.path)
            return Response(content, media_type=kind, headers={"cache-control": "public, max-age=300"})

        return await reading.run(read)

    @app.get(
        "/v1/products/{product_id:path}/queries",
        response_model=bodies.LikelyQueriesOut,
        responses=_problems(400, 404, 422, 503),
    )
    async def likely_queries(product_id: bodies.Word, k: bodies.QueryCount = 10) -> Response:
        """What people would search a product as, likeliest first. The model needs a classification head."""
        return await explaining.run(lambda: _json({"queries": understanding.likely_queries(product_id, k)}))

    @app.get(
        "/v1/products/{product_id:path}", response_model=bodies.ProductOut, responses=_problems(400, 404, 422, 503)
    )
    async def product(product_id: bodies.Word) -> Response:
        """One product."""

        def read() -> Response:
            found = catalogue.get(product_id)
            if found is None:
                raise HTTPException(404, "product_id: no such product")
            return _json(product_json(found))

        return await reading.run(read)

    @app.delete(
        "/v1/products/{product_id:path}",
        response_model=bodies.AcceptedOut,
        dependencies=key,
        responses=_problems(401, 404, 422, 503),
    )
    async def delete(product_id: bodies.Word) -> Response:
        """Delete a product; no search shows it from now on."""

        def write() -> Response:
            if not catalogue.delete(product_id):
                raise HTTPException(404, "product_id: no such product")
            ingestion.wake()
            return _json({"accepted": 1})

        return await writing.run(write)

    @app.post("/v1/events", response_model=bodies.AcceptedOut, responses=_problems(400, 413, 422, 503))
    async def events(body: bodies.EventsIn) -> Response:
        """Log what searchers saw and did (UBI 1.3). The events are on disk when this answers."""

        def write() -> Response:
            catalogue.add_events(event_rows(body.events))
            return _json({"accepted": len(body.events)})

        return await writing.run(write)

    @app.post(
        "/v1/embed", response_model=bodies.VectorsOut, dependencies=key, responses=_problems(400, 401, 413, 422, 503)
    )
    async def embed(body: bodies.EmbedIn, request: Request) -> Response:
        """The vectors of queries or, with the key, of products."""
        if body.products is not None and not request.scope["keyed"]:
            raise HTTPException(401, "X-API-Key: missing or wrong; embedding products needs the server's key")

        def encode() -> Response:
            if body.queries is not None:
                vectors = encoder.encode_queries(body.queries, body.country)
            else:
                entries = _entries(body.products or [], settings.image_dimension)
                vectors = encoder.encode_products(product_rows([entry.product() for entry in entries]))
            return _json({"vectors": np.ascontiguousarray(vectors, np.float32)})

        return await embedding.run(encode)

    @app.get("/v1/market", response_model=bodies.MarketOut, responses=_problems(503))
    async def about() -> Response:
        """What a search page needs to know about the market."""
        named = {"name": market.config.name, "currency": market.config.currency}
        model = {"name": settings.model_name, "dimension": encoder.dimension, "queries": understanding.queries}
        return await reading.run(lambda: _json(named | {"model": model, "products": catalogue.count()} | facts))

    @app.get("/healthz", response_model=bodies.StateOut)
    async def healthz() -> Response:
        """The process answers."""
        return _json({"status": "ok"})

    @app.get("/readyz", response_model=bodies.StateOut, responses=_problems(503))
    async def readyz() -> Response:
        """The index answers and ingestion keeps up."""

        def check() -> Response:
            index.count(Filters())
            if catalogue.outbox_depth() >= settings.outbox_bound:
                raise OverloadError("too many products wait to be embedded")
            return _json({"status": "ready"})

        return await reading.run(check)

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def exposition() -> Response:
        """Metrics for Prometheus."""
        return Response(metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    @app.get("/", include_in_schema=False)
    async def front(request: Request) -> Response:
        return await page.get_response("index.html", request.scope)

    app.mount("/page", page, name="page")
    return app


class _PageFiles(StaticFiles):
    """Asked for again each time and seldom sent again (ETags), so that an upgrade never mixes old and new files."""

    def is_not_modified(self, response_headers: Headers, request_headers: Headers) -> bool:
        MutableHeaders(raw=response_headers.raw)["cache-control"] = "no-cache"
        return super().is_not_modified(response_headers, request_headers)


def _entries(products: list[bodies.ProductIn], image_dimension: int) -> list[Entry]:
    """Products as they are stored, each picture decoded once.

    Raises:
        HTTPException: 422 where a product's image vectors are not of the length that the encoder reads.
        MercatoError: a picture is broken or too large; the message names it.
    """
    for number, product in enumerate(products):
        for vector in product.image_embeddings or ():
            if image_dimension and len(vector) != image_dimension:
                why = f"vectors of {len(vector)} numbers, but the model's image vectors have {image_dimension}"
                raise HTTPException(422, f"products.{number}.image_embeddings: {why}")
    return [_entry(product, f"products.{number}") for number, product in enumerate(products)]


def _entry(product: bodies.ProductIn, where: str) -> Entry:
    pictures = [
        Picture(*checked_picture(image.base64, f"{where}.images.{number}.base64"))
        for number, image in enumerate(product.images or ())
    ]
    document = product.model_dump(mode="json", exclude={"images", "image_embeddings"})
    return Entry(document, pictures, product.image_embeddings)


def _count_things(metrics: Metrics, encoder: Encoder, index: Index, catalogue: Catalogue) -> None:
    metrics.gauge("mercato_outbox_depth", "Products not yet in the index and on its disk", catalogue.outbox_depth)
    metrics.gauge("mercato_index_failures", "Products that could not be embedded", lambda: len(catalogue.failures()))
    metrics.gauge("mercato_index_size", "Products in the index", lambda: len(index))
    cache = getattr(encoder, "cache", None)
    if isinstance(cache, TTLCache):
        metrics.gauge("mercato_query_cache_hits", "Query vectors found in the cache", lambda: cache.hits)
        metrics.gauge("mercato_query_cache_misses", "Query vectors computed", lambda: cache.misses)


def _answer_problems(app: FastAPI) -> None:
    """Every error as {"detail": text}, the text naming the field and never repeating what was sent."""

    def answer(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
        return Response(
            orjson.dumps({"detail": detail.encode(errors="replace").decode()}), status, headers, "application/json"
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        problems = [f"{_field(problem['loc'])}: {_why(problem)}" for problem in error.errors()]
        return answer(422, "; ".join(problem.removeprefix("body: ") for problem in problems[:5]))

    @app.exception_handler(MercatoError)
    async def mendable(_: Request, error: MercatoError) -> Response:
        return answer(400, str(error))

    @app.exception_handler(OverloadError)
    async def overload(_: Request, error: OverloadError) -> Response:
        return answer(503, str(error), {"retry-after": "1"})

    @app.exception_handler(StarletteHTTPException)
    async def other(_: Request, error: StarletteHTTPException) -> Response:
        return answer(error.status_code, error.detail, dict(error.headers) if error.headers else None)


def _field(location: tuple[Any, ...]) -> str:
    return ".".join(map(str, location[1:])) or str(location[0])  # the first step says where: body, path


def _why(problem: dict[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "is not a field that is known here"
    return str(problem["msg"]).removeprefix("Value error, ")


def _problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    meanings = {
        400: "The request cannot be done as it stands",
        401: "The API key is missing or wrong",
        404: "There is no such thing",
        413: "The body is too large",
        422: "A field is wrong",
        503: "At capacity; Retry-After says when to come back",
    }
    return {status: {"model": bodies.ProblemOut, "description": meanings[status]} for status in statuses}


def _json(content: Any) -> Response:
    return Response(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY), media_type="application/json")
