"""Exception handlers: every error as {"detail": text}, the text naming the field and never repeating what was sent."""

from __future__ import annotations

import logging
import math
from typing import Any

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from mercato.errors import BoundError, DamagedError, ExpiredError, FullError, MercatoError, NotFoundError
from mercato.serving import bodies
from mercato.serving.executor import OverloadError

log = logging.getLogger("mercato.serving")

_MEANINGS = {
    400: "The request cannot be done as it stands",
    401: "The API key is missing or wrong",
    403: "The API key may not do this",
    404: "There is no such thing",
    410: "The cursor is too old",
    413: "The body is too large",
    422: "A field is wrong",
    429: "More than is allowed in a second; Retry-After says when to come back",
    503: "At capacity; Retry-After says when to come back",
    507: "The server's disk is full",
}


def problems(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The `responses` of a route, for OpenAPI: the errors that it may answer with."""
    return {status: {"model": bodies.ProblemOut, "description": _MEANINGS[status]} for status in statuses}


def too_many(why: str, seconds: float) -> HTTPException:
    """429, with the time after which to come back."""
    return HTTPException(429, why, {"retry-after": str(math.ceil(seconds))})


def add_handlers(app: FastAPI) -> None:
    """Register the handlers."""

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        found = [f"{_field(problem['loc'])}: {_why(problem)}" for problem in error.errors()]
        return _problem(422, "; ".join(problem.removeprefix("body: ") for problem in found[:5]))

    @app.exception_handler(MercatoError)
    async def refused(_: Request, error: MercatoError) -> Response:
        if isinstance(error, DamagedError):
            log.error("%s", error)
            return await fault(_, error)
        statuses = {BoundError: 403, NotFoundError: 404, ExpiredError: 410, FullError: 507}
        return _problem(statuses.get(type(error), 400), str(error))

    @app.exception_handler(OverloadError)
    async def overload(_: Request, error: OverloadError) -> Response:
        return _problem(503, str(error), {"retry-after": "1"})

    @app.exception_handler(HTTPException)
    async def other(_: Request, error: HTTPException) -> Response:
        return _problem(error.status_code, error.detail, dict(error.headers) if error.headers else None)

    @app.exception_handler(Exception)
    async def fault(_: Request, __: Exception) -> Response:
        return _problem(500, "a fault of the server's, which its log tells")


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    body = orjson.dumps({"detail": detail.encode(errors="replace").decode()})
    return Response(body, status, headers, "application/json")


def _field(location: tuple[Any, ...]) -> str:
    return ".".join(map(str, location[1:])) or str(location[0])  # the first step says where: body, path


def _why(problem: dict[str, Any]) -> str:
    if problem["type"] == "extra_forbidden":
        return "is not a field that is known here"
    return str(problem["msg"]).removeprefix("Value error, ")
