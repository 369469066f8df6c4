"""HTTP over one connection: uvicorn's protocol with deadlines, which refuses what two servers may read as two things.

Uvicorn has no deadline for a request, none for a client that does not read its answer, and no bound on a head.
"""

from __future__ import annotations

import asyncio
from typing import Any, Literal, cast

import httptools
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from mercato.serving.accept import Loop
from mercato.serving.answers import raw_answer
from mercato.serving.connections import turned_away

CONNECTION = "connection"  # in a request's state: the `BoundedProtocol` that it comes over
TOO_MANY = "too many"  # in a request's state: whether the client that a proxy sends it for has too many at once

_KILOBYTE = 1024
_HEAD = 64 * _KILOBYTE  # bytes of a request's head
_RATE = 8 * _KILOBYTE  # bytes a second that a body must come at, beyond its first seconds


class MalformedError(Exception):
    """A request that is not read further."""

    def __init__(self, why: str, status: int = 400) -> None:
        super().__init__(why)
        self.status = status


class BoundedProtocol(HttpToolsProtocol):
    """One client's connection.

    It waits for its client: for a request's `head`, for its `body`, or `idle` for the next one and for the last answer
    to be read. Or, with None, its client waits.
    """

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._places = cast(Loop, self.loop).connections
        self._limits = self._places.limits
        self._waits_for: Literal["head", "body", "idle"] | None = "head"
        self._begun = self._in_head = self._proxied = self._unwanted = False
        self.app = self._ask
        self._untold = 0  # bytes since the parser last told anything but a header
        self._began, self._received = 0.0, 0  # the body: when its head was there, and how much has come
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin; its place was taken, and its deadline set, when it was accepted."""
        super().connection_made(transport)
        self._proxied = self.client is not None and self.client[0] in self._limits.proxies
        self._begun = True
        if self._unwanted:
            self.transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._places.release(self)
        super().connection_lost(exc)

    def give_up(self) -> None:
        """Close: the client took too long."""
        turned_away[f"too slow: {self._waits_for}"] += 1
        if self._in_head or self._waits_for == "body":
            self.drop(408, "the request did not come in time")
        elif self._begun:
            self.transport.abort()  # `close` would wait until all is read that was written

    def make_room(self) -> None:
        """Close at once: another needs the place."""
        if self._begun:
            self.transport.abort()
        else:
            self._unwanted = True

    def drop(self, status: int, why: str) -> None:
        """Close, with an answer where nothing of one has been sent and none is due before."""
        cycle = self.cycle
        due = cycle is not None and not cycle.response_complete
        if self.transport.is_closing() or self.pipeline or (due and (cycle.response_started or self._in_head)):
            self.transport.abort()
            return
        if due:
            cycle.disconnected = True  # what the application answers comes too late
            cycle.message_event.set()
        self._in_head = False
        self.transport.write(raw_answer(status, why))
        self.transport.close()
        self._wait_for("idle", self.loop.time() + self._limits.idle_seconds)

    def lag(self, rate: int) -> float:
        """By how many seconds a body that is still awaited is behind so many bytes a second."""
        if self._waits_for != "body":
            return 0.0
        return self.loop.time() - self._began - self._received / rate

    def data_received(self, data: bytes) -> None:
        """Read on."""
        self._unset_keepalive_if_required()
        if self._waits_for == "idle":
            self._wait_for("head", self.loop.time() + self._limits.request_seconds)
        self._untold += len(data)
        try:
            self.parser.feed_data(data)
            if self._untold > _HEAD:
                raise MalformedError("the head or a part of the body is too large", 431)
        except httptools.HttpParserUpgrade:
            pass  # it is answered as if it had not asked, and the connection closed
        except (httptools.HttpParserError, MalformedError) as error:
            cause = error if isinstance(error, MalformedError) else error.__context__
            turned_away["malformed"] += 1
            if isinstance(cause, MalformedError):
                self.drop(cause.status, str(cause))
            else:
                self.drop(400, "this is not HTTP/1.1 as it is read here")

    def on_message_begin(self) -> None:
        """A request begins."""
        self._in_head = True
        super().on_message_begin()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field of the head; what comes behind the body is dropped, as no one has checked it."""
        if self._in_head:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """Its head is there."""
        self._check_head()
        scope = self.scope
        scope["state"][CONNECTION] = self
        if self._proxied:
            self._take_the_proxys_word(scope)
        super().on_headers_complete()
        self._in_head, self._untold = False, 0
        if self.parser.should_upgrade():
            self.cycle.keep_alive = False  # what comes behind it is of another protocol
        self._began, self._received = self.loop.time(), 0
        self._wait_for("body", self._began + self._limits.request_seconds)

    def on_body(self, body: bytes) -> None:
        """A part of its body is there."""
        super().on_body(body)
        self._untold = 0
        self._received += len(body)
        self._wait_for("body", self._began + self._limits.request_seconds + self._received / _RATE)

    def on_message_complete(self) -> None:
        """All of it is there."""
        super().on_message_complete()
        self._untold = 0
        self._turn()

    def on_response_complete(self) -> None:
        """It is answered."""
        super().on_response_complete()
        if self._waits_for is None:
            self._turn()

    def pause_writing(self) -> None:
        """The client does not read."""
        super().pause_writing()
        if self._waits_for is None:
            self._wait_for("idle", self.loop.time() + self._limits.idle_seconds)

    def resume_writing(self) -> None:
        """It has read."""
        super().resume_writing()
        if self._waits_for == "idle":
            self._turn()

    def _turn(self) -> None:
        """Whose turn is it, with a whole request there?"""
        if self.cycle.response_complete:
            self._wait_for("idle", self.loop.time() + self._limits.idle_seconds)
        else:
            self._waits_for = None
            self._places.work(self)

    def _wait_for(self, what: Literal["head", "body", "idle"], deadline: float) -> None:
        self._waits_for, self.deadline = what, deadline
        self._places.wait(self)

    def _check_head(self) -> None:
        """Refuse what another server, before this one, may read as of another length or for another host.

        llhttp refuses most of it; this holds whatever it is set to.
        """
        size = len(self.url)
        lengths, encodings, hosts = [], [], 0
        for name, value in self.headers:
            size += len(name) + len(value)
            if name == b"content-length":
                lengths.append(value)
            elif name == b"transfer-encoding":
                encodings.append(value.lower())
            elif name == b"host":
                hosts += 1
        version = self.parser.get_http_version()
        if size > _HEAD:
            raise MalformedError("the head is too large", 431)
        if version not in ("1.0", "1.1") or self.parser.get_method() == b"CONNECT":
            raise MalformedError("HTTP/1.1 is spoken here, and not to proxies")
        if hosts > 1 or (not hosts and version == "1.1"):
            raise MalformedError("Host: it is wanted once")
        if len(lengths) + len(encodings) > 1 or not all(length.isdigit() for length in lengths):
            raise MalformedError("Content-Length, Transfer-Encoding: at most one of them, once")
        if encodings and (encodings != [b"chunked"] or version == "1.0"):
            raise MalformedError("Transfer-Encoding: it can only be chunked")
        if self.parser.should_upgrade() and (encodings or lengths not in ([], [b"0"])):
            raise MalformedError("Upgrade: only HTTP/1.1 is spoken here, and a body is only read without it")

    def _take_the_proxys_word(self, scope: Any) -> None:
        said = {b"x-forwarded-for": list[bytes](), b"x-forwarded-proto": list[bytes]()}
        for name, value in self.headers:
            if name in said:
                said[name].append(value)
        assert self.client is not None
        scope["client"] = (self._limits.proxies.client(self.client[0], said[b"x-forwarded-for"]), 0)
        if said[b"x-forwarded-proto"][-1:] == [b"https"]:
            scope["scheme"] = "https"

    async def _ask(self, scope: Scope, receive: Receive, send: Send) -> None:
        """The application; a proxy's request counts as its client's."""
        try:
            if self._proxied:
                with self._places.request(scope["client"][0]) as may:
                    scope["state"][TOO_MANY] = not may
                    await self.config.loaded_app(scope, receive, send)
            else:
                await self.config.loaded_app(scope, receive, send)
        except RuntimeError:
            if not self.transport.is_closing():
                raise
            # Uvloop does not write to a client who has gone; uvicorn would log that, a traceback for whoever wants one
            receive.__self__.disconnected = True  # type: ignore[attr-defined]  # it is a method of the request's cycle
