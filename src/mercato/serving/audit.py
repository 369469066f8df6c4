"""The audit log: a line of JSON on stderr for each write with a key: which, what and how it ended, and no content."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

_LOG = logging.getLogger("mercato.audit")


def show_audit() -> None:
    """Let this process print it."""
    if not _LOG.handlers:
        handler = logging.StreamHandler()
        handler.setFormatter(logging.Formatter("%(message)s"))
        _LOG.addHandler(handler)
        _LOG.setLevel(logging.INFO)
        _LOG.propagate = False


def audit(*, key_id: str, method: str, route: str, status: int, count: int) -> None:
    """Note one write.

    Args:
        key_id: of the key it came with, `server` for that of the environment.
        method, route: of the request; the route is its template, without what was asked for.
        status: of the answer.
        count: products written or deleted.
    """
    line = {
        "audit": f"{method} {route}",
        "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
        "key": key_id,
        "status": status,
        "count": count,
    }
    _LOG.info(json.dumps(line))
