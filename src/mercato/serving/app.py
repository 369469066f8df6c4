"""The application: `create_app` joins a market, an encoder, an index and a catalogue to one FastAPI application."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders

from mercato.catalogue.store import Catalogue
from mercato.data.market import Market
from mercato.retrieval.protocol import Index
from mercato.runs.encoder import Encoder
from mercato.serving.docs_page import docs_page
from mercato.serving.guard import RequestGuard
from mercato.serving.problems import add_handlers
from mercato.serving.routes import router
from mercato.serving.services import Services, Settings

_PAGE = Path(__file__).parent / "page"
_DESCRIPTION = "Search of one marketplace: (ANN ∨ text) ∧ filters. Writes need the header X-API-Key."


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
    services = Services(market, encoder, index, catalogue, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        services.start()
        yield
        services.stop()

    app = FastAPI(
        title="Mercato", version="1", description=_DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.services = services
    app.add_middleware(RequestGuard, api_key=settings.api_key, metrics=services.metrics)
    add_handlers(app)
    app.include_router(router)
    _add_pages(app)
    return app


def _add_pages(app: FastAPI) -> None:
    page = _PageFiles(directory=_PAGE)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return HTMLResponse(docs_page(app.openapi()))

    @app.get("/", include_in_schema=False)
    async def front(request: Request) -> Response:
        return await page.get_response("index.html", request.scope)

    app.mount("/page", page, name="page")


class _PageFiles(StaticFiles):
    """Static files revalidated on each request (ETags), so that an upgrade never mixes old and new files."""

    def is_not_modified(self, response_headers: Headers, request_headers: Headers) -> bool:
        MutableHeaders(raw=response_headers.raw)["cache-control"] = "no-cache"
        return super().is_not_modified(response_headers, request_headers)
