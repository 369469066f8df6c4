"""Events: what searchers saw and did, as anybody may send it and as rows of the market's table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from mercato.data.ubi import parse_ubi_event, share_sessions
from mercato.errors import MercatoError

_AHEAD, _BACK = timedelta(minutes=5), timedelta(hours=24)  # how far a browser's clock is believed
_COUNTRY = re.compile("[a-z]{2}")


def event_rows(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """UBI events as anybody may send them, as rows of the events schema (`timestamp` in ISO 8601).

    One wrong value must not spoil the log that mining reads: a time more than five minutes ahead or a day back is
    replaced by the time of receipt, and a country that is not two letters by none.

    Raises:
        MercatoError: an event is not one; the message begins with its number and field.
    """
    now, rows = datetime.now(UTC), []
    for number, event in enumerate(events):
        try:
            rows.append((event, parse_ubi_event(_without_wrong_countries(event))))
        except MercatoError as error:
            raise MercatoError(f"events.{number}.{error}") from None
    return [row | {"timestamp": _believed(row["timestamp"], now).isoformat()} for row in share_sessions(rows)]


def _believed(moment: datetime, now: datetime) -> datetime:
    return moment if now - _BACK <= moment <= now + _AHEAD else now


def _without_wrong_countries(event: Mapping[str, Any]) -> Mapping[str, Any]:
    def checked(fields: Any) -> Any:
        if not isinstance(fields, Mapping) or "country" not in fields:
            return fields
        country = fields["country"]
        right = isinstance(country, str) and _COUNTRY.fullmatch(country.strip().lower())
        return {**fields, "country": country if right else None}

    nested = {name: checked(event[name]) for name in ("event_attributes", "query_attributes") if name in event}
    return {**checked(event), **nested}
