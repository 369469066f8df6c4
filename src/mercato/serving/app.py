"""The application: `create_app` puts routes, middleware and the page before a process's services."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles
from starlette.datastructures import Headers, MutableHeaders

from mercato.serving.access import KeyRing, SharedRate
from mercato.serving.docs_page import docs_page
from mercato.serving.guard import RequestGuard
from mercato.serving.problems import add_handlers
from mercato.serving.routes import router
from mercato.serving.services import Services

_PAGE = Path(__file__).parent / "page"
_DESCRIPTION = "Search of one marketplace: (ANN ∨ text) ∧ filters. Writes need a key in the header X-API-Key."


def create_app(services: Services, opened: ExitStack | None = None) -> FastAPI:
    """The application over `services`, which its end closes, and then what is `opened`, where that is its own."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        services.close()
        if opened is not None:
            opened.close()

    app = FastAPI(
        title="Mercato", version="1", description=_DESCRIPTION, lifespan=lifespan, docs_url=None, redoc_url=None
    )
    app.state.services = services
    keys = KeyRing(services.catalogue.keys.all, services.settings.api_key)
    app.add_middleware(
        RequestGuard,
        keys=keys,
        opened=services.settings.opened,
        metrics=services.metrics,
        event_bytes=SharedRate(*services.settings.open_event_bytes),
    )
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
