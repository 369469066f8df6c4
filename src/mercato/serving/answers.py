"""Answers given before there is an application to give them."""

from __future__ import annotations

from http import HTTPStatus

import orjson


def raw_answer(status: int, why: str) -> bytes:
    """A whole answer, after which the connection is closed."""
    body = orjson.dumps({"detail": why})
    head = [
        f"HTTP/1.1 {status} {HTTPStatus(status).phrase}",
        "content-type: application/json",
        f"content-length: {len(body)}",
        "x-content-type-options: nosniff",
        "connection: close",
        *(["retry-after: 1"] if status in (429, 503) else []),
    ]
    return "\r\n".join([*head, "", ""]).encode() + body
