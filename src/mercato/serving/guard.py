"""The request guard, an ASGI middleware: body limits, API keys, security headers, metrics, the audit log."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mercato.serving.access import AREAS, Area, Caller, KeyRing, SharedRate, needed
from mercato.serving.audit import audit
from mercato.serving.large_bodies import LargeBodies
from mercato.serving.prometheus import Metrics
from mercato.serving.protocol import TOO_MANY

_HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
        b"frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
]
_KILOBYTE = 1024
_LIMITS = {"/v1/products": 32_768 * _KILOBYTE, "/v1/embed": 1024 * _KILOBYTE, "/v1/events": 1024 * _KILOBYTE}
_KEYED_LIMITS = _LIMITS | {"/v1/embed": 8192 * _KILOBYTE}
_LIMIT = 64 * _KILOBYTE  # bytes of a body anywhere else
_DRAINED = 8192 * _KILOBYTE  # bytes of a refused body that are read and thrown away
_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"}


class RequestGuard:
    """Middleware that refuses what a request's key does not allow, and bodies over their limit before they are read.

    It adds the security headers to every response and counts it. Large bodies are admitted a few at a time, so that
    memory is bounded, those of keys that may write apart from the others.
    `scope["caller"]` tells the routes whose key came with the request, `scope["written"]` tells it how much they wrote.
    """

    def __init__(
        self, app: ASGIApp, keys: KeyRing, opened: Collection[Area], metrics: Metrics, event_bytes: SharedRate
    ) -> None:
        """`event_bytes` are those of events that are taken without a key."""
        self._app, self._keys, self._opened, self._metrics = app, keys, opened, metrics
        self._event_bytes = event_bytes
        self._large = LargeBodies()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        start, status = time.perf_counter(), 500
        caller: Caller | None = None

        async def secured(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *_HEADERS]
            await send(message)

        try:
            headers = dict(scope["headers"])
            key = headers.get(b"x-api-key")
            caller = scope["caller"] = await self._keys.caller(key) if key else None
            wanted = needed(scope["method"], scope["path"], self._opened)
            keyed = caller is not None and caller.may("write")
            limit = (_KEYED_LIMITS if keyed else _LIMITS).get(scope["path"], _LIMIT)
            large = limit > _LIMIT and _may_exceed(headers, _LIMIT)
            if scope.get("state", {}).get(TOO_MANY):
                why = "too many requests at once from one address; try again in a second"
                await _refuse(receive, secured, 429, why)
            elif wanted and caller is None:
                await _refuse(receive, secured, 401, f"X-API-Key: missing or wrong; this needs a key that may {wanted}")
            elif wanted and caller and not caller.may(wanted):
                await _refuse(receive, secured, 403, f"X-API-Key: this needs a key that may {wanted}; yours may not")
            elif caller and caller.bucket and (wait := caller.bucket.take()):
                why = f"X-API-Key: more than this key's {caller.bucket.rate:g} requests a second"
                await _refuse(receive, secured, 429, why, retry_after=math.ceil(wait))
            elif _declared(headers) > limit:
                await _refuse(receive, secured, 413, _too_large(limit))
            elif not keyed and scope["path"] == "/v1/events" and (wait := self._owed(scope, headers, limit)):
                why = "more bytes of events than are taken of one address, or of all together, without a key to write"
                await _refuse(receive, secured, 429, why, retry_after=math.ceil(wait))
            elif large:
                with self._large.place(scope, keyed) as place:
                    if place:
                        await self._app(scope, _bounded(receive, limit), secured)
                    else:
                        await _refuse(receive, secured, 503, "too many large bodies at once; try again in a second")
            else:
                await self._app(scope, _bounded(receive, limit), secured)
        finally:
            route = str(getattr(scope.get("route"), "path_format", "other"))
            method = scope["method"] if scope["method"] in _METHODS else "other"
            self._metrics.request(route, method, status, time.perf_counter() - start)
            if caller and needed(method, scope["path"], AREAS):
                audit(key_id=caller.key_id, method=method, route=route, status=status, count=scope.get("written", 0))

    def _owed(self, scope: Scope, headers: dict[bytes, bytes], limit: int) -> float:
        """In how many seconds such a body is taken; 0: now, and it counts. One in chunks counts as the largest."""
        size = limit if b"transfer-encoding" in headers else _declared(headers)
        return self._event_bytes.take(scope["client"][0] if scope.get("client") else "", size)


def _declared(headers: dict[bytes, bytes]) -> int:
    length = headers.get(b"content-length", b"0")
    return int(length) if length.isdigit() else 0


def _may_exceed(headers: dict[bytes, bytes], size: int) -> bool:
    return _declared(headers) > size or b"transfer-encoding" in headers  # in chunks, of undeclared length


def _too_large(limit: int) -> str:
    return f"body: larger than the {limit // _KILOBYTE:,} kB that are read here"


def _bounded(receive: Receive, limit: int) -> Receive:
    """`receive` that counts, for bodies that do not declare their length."""
    seen = 0

    async def counting() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        if seen > limit:
            raise HTTPException(413, _too_large(limit))
        return message

    return counting


async def _refuse(receive: Receive, send: Send, status: int, why: str, retry_after: int = 1) -> None:
    """Answer without the body; a moderate one is read and dropped, so that the client gets to read the response."""
    left = _DRAINED
    while left > 0:
        message = await receive()
        left -= len(message.get("body", b"")) or 1
        if not message.get("more_body", False):
            break
    await _answer(send, status, why, retry_after=retry_after)


async def _answer(send: Send, status: int, why: str, retry_after: int = 1) -> None:
    body = orjson.dumps({"detail": why})
    headers: list[Any] = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status in (429, 503):
        headers.append((b"retry-after", str(retry_after).encode()))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
