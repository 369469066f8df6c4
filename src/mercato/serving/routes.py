"""The routes of the HTTP API, a function each: body → domain call in a bounded executor → JSON."""

from __future__ import annotations

from typing import Any

import numpy as np
from fastapi import APIRouter, HTTPException, Request, Response, Security
from fastapi.security import APIKeyHeader

from mercato.catalogue.events import receive
from mercato.catalogue.images import market_image
from mercato.errors import NotFoundError
from mercato.retrieval.expression import Filters
from mercato.search.logged import feature_rows
from mercato.search.pipeline import Page
from mercato.serving import bodies
from mercato.serving.executor import OverloadError
from mercato.serving.problems import problems, too_many
from mercato.serving.serialize import json_response, market_json, page_json, product_json, stored_products
from mercato.serving.services import FULL, Served

router = APIRouter(responses=problems(401, 403, 429))  # any but a few may be closed to those without a key
_KEY = [Security(APIKeyHeader(name="X-API-Key", auto_error=False))]  # for OpenAPI; the request guard checks it
_IMAGES: dict[int | str, dict[str, Any]] = {200: {"content": {f"image/{kind}": {} for kind in ("jpeg", "png", "webp")}}}


def _is_open_read(request: Request, served: Served) -> bool:
    """Whether a request reads the catalogue without a key that may read; refused where its address has read enough."""
    caller = request.scope["caller"]
    if caller is not None and caller.may("read"):
        return False
    if wait := served.open_reads.take(request.client.host if request.client else "", 1):
        rate = f"{served.open_reads.of_each:g} searches and products a second"
        raise too_many(f"without a key that may read, one address gets {rate}", wait)
    return True


@router.post("/v1/search", response_model=bodies.SearchOut, responses=problems(400, 410, 413, 422, 503))
async def search(body: bodies.SearchIn, request: Request, served: Served) -> Response:
    """Search; or browse the filtered catalogue with an empty query. Without a key its pages end sooner."""
    most = served.settings.open_depth if _is_open_read(request, served) else None

    def find() -> tuple[Page, Response]:
        with served.deployments.using() as deployment:
            page = deployment.searcher.search(body.request(), served.settings.logged, most)
        served.metrics.ranked(page.ranked_by, page.left_out)
        return page, json_response(page_json(page))

    page, response = await served.reading.run(find)
    if (rows := feature_rows(page)) and served.has_room:
        served.writing.spare(lambda: served.catalogue.features.append(rows))
    return response


@router.post("/v1/explain", response_model=bodies.ExplainOut, responses=problems(400, 404, 413, 422, 503))
async def explain(body: bodies.ExplainIn, served: Served) -> Response:
    """What brings a query and a product together, word by word and field by field."""

    def compare() -> Response:
        with served.deployments.using() as deployment:
            return json_response(deployment.explainer.explain(body.query, body.product_id, body.country))

    return await served.explaining.run(compare)


@router.post(
    "/v1/products",
    response_model=bodies.AcceptedOut,
    dependencies=_KEY,
    responses=problems(400, 413, 422, 503, 507),
)
async def upsert(body: bodies.ProductsIn, request: Request, served: Served) -> Response:
    """Write products. They are on disk when this answers, and searchable about a second later."""

    def write() -> Response:
        served.check_room()
        if served.behind:
            raise OverloadError("too many products wait to be embedded; try again later")
        served.catalogue.products.upsert(stored_products(body.products, served.deployments.served.image_dimension))
        served.wake()
        return json_response({"accepted": len(body.products)})

    response = await served.writing.run(write)
    request.scope["written"] = len(body.products)
    return response


@router.get(
    "/v1/images/{position}/{product_id:path}",
    response_class=Response,
    responses=problems(400, 404, 422, 503) | _IMAGES,
)
async def image(product_id: bodies.ProductId, position: bodies.ImagePosition, served: Served) -> Response:
    """One of a product's images; 0 is the first."""

    def read() -> Response:
        stored = served.catalogue.products.image(product_id, position)
        if stored is None:
            raise NotFoundError("no such image")
        kind, content = stored.content_type, stored.content
        if stored.path is not None:
            kind, content = market_image(served.market.path, stored.path)
        return Response(content, media_type=kind, headers={"cache-control": "public, max-age=300"})

    return await served.reading.run(read)


@router.get(
    "/v1/predicted-queries/{product_id:path}",
    response_model=bodies.PredictedQueriesOut,
    responses=problems(400, 404, 422, 503),
)
async def predict_queries(product_id: bodies.ProductId, served: Served, k: bodies.QueryCount = 10) -> Response:
    """What people would search a product as, most probable first. The model needs a classification head."""

    def predict() -> Response:
        with served.deployments.using() as deployment:
            return json_response({"queries": deployment.predictor.predict(product_id, k)})

    return await served.explaining.run(predict)


@router.get("/v1/products/{product_id:path}", response_model=bodies.ProductOut, responses=problems(400, 404, 422, 503))
async def product(product_id: bodies.ProductId, request: Request, served: Served) -> Response:
    """One product."""
    _is_open_read(request, served)

    def read() -> Response:
        found = served.catalogue.products.get(product_id)
        if found is None:
            raise NotFoundError("product_id: no such product")
        return json_response(product_json(found))

    return await served.reading.run(read)


@router.delete(
    "/v1/products/{product_id:path}",
    response_model=bodies.AcceptedOut,
    dependencies=_KEY,
    responses=problems(404, 422, 503, 507),
)
async def delete(product_id: bodies.ProductId, request: Request, served: Served) -> Response:
    """Delete a product; no search shows it from now on."""

    def write() -> Response:
        if not served.catalogue.products.delete(product_id):
            raise NotFoundError("product_id: no such product")
        served.wake()
        return json_response({"accepted": 1})

    response = await served.writing.run(write)
    request.scope["written"] = 1
    return response


@router.post("/v1/events", response_model=bodies.EventsOut, responses=problems(400, 413, 422, 503, 507))
async def events(body: bodies.EventsIn, request: Request, served: Served) -> Response:
    """Log what searchers saw and did (UBI 1.3). The events are on disk when this answers."""
    client, caller = request.client.host if request.client else "", request.scope["caller"]
    anybody = caller is None or not caller.may("write")  # a key to read is in every copy of an app
    if anybody and (wait := served.open_events.take(client, len(body.events))):
        raise too_many("more events than are taken of one address, or of all together, without a key to write", wait)

    def write() -> Response:
        served.check_room(for_anybody=anybody)
        received = receive(body.events, served.stranger(client) if anybody else None)
        served.catalogue.events.append(received.rows)
        told = {"set_aside": received.set_aside, "unsigned": received.unsigned}
        return json_response({"accepted": len(body.events)} | {name: what for name, what in told.items() if what})

    return await served.writing.run(write)


@router.post("/v1/embed", response_model=bodies.VectorsOut, dependencies=_KEY, responses=problems(400, 413, 422, 503))
async def embed(body: bodies.EmbedIn, request: Request, served: Served) -> Response:
    """The vectors of queries or, with a key that may write, of products."""
    caller = request.scope["caller"]
    if body.products is not None and not (caller and caller.may("write")):
        raise HTTPException(401, "X-API-Key: missing or wrong; embedding products needs a key that may write")
    if caller is None and (wait := served.open_embeddings.take(len(body.queries or []))):
        why = f"without a key {served.open_embeddings.rate:g} queries a second are embedded, for all together"
        raise too_many(why, wait)

    def encode() -> Response:
        with served.deployments.using() as deployment:
            if body.queries is not None:
                vectors = deployment.encoder.encode_queries(body.queries, body.country)
            else:
                stored = stored_products(body.products or [], deployment.image_dimension)
                vectors = deployment.encoder.encode_products([product.row() for product in stored])
        return json_response({"vectors": np.ascontiguousarray(vectors, np.float32)})

    return await served.embedding.run(encode)


@router.get("/v1/market", response_model=bodies.MarketOut, responses=problems(503))
async def about(served: Served) -> Response:
    """What a search page needs to know about the market."""
    config = served.market.config

    def describe() -> Response:
        with served.deployments.using() as by:
            model = {"name": by.name, "dimension": by.encoder.dimension, "queries": by.predictor.queries}
        named = {"name": config.name, "currency": config.currency, "model": model}
        return json_response(named | {"products": served.catalogue.products.count()} | market_json(served.market_info))

    return await served.reading.run(describe)


@router.get("/healthz", response_model=bodies.StateOut)
async def healthz() -> Response:
    """The process answers."""
    return json_response({"status": "ok"})


@router.get("/readyz", response_model=bodies.StateOut, responses=problems(503))
async def readyz(served: Served) -> Response:
    """The index answers, holds what was written before it was served, ingestion keeps up, and the disks have room."""

    def check() -> Response:
        with served.deployments.using() as deployment:
            deployment.index.count(Filters())
            if not served.ledger.is_up_to_date(deployment.index.fingerprint):
                raise OverloadError("the index lacks what was written before it was served; it is brought up to date")
        if served.behind:
            raise OverloadError("too many products wait to be embedded")
        if not served.has_room:
            raise OverloadError(FULL)
        return json_response({"status": "ready"})

    return await served.reading.run(check)


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def exposition(served: Served) -> Response:
    """Metrics for Prometheus."""
    return Response(served.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")
