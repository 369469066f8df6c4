"""JSON as records: arrays, lines, arrays wrapped in an object, and the bulk requests and dumps of search engines."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import orjson

from mercato.errors import MercatoError

_BULK = {"index", "create", "update", "delete"}
_BULK_FIELDS = {"_index", "_id", "_type", "routing", "_routing", "version", "version_type", "retry_on_conflict"}
_BULK_FIELDS |= {"pipeline", "require_alias", "if_seq_no", "if_primary_term", "dynamic_templates", "_source", "op_type"}


class Line(NamedTuple):
    """A record, or why it is none, and where it begins: its line (from 1) and byte (from 0), where it has them."""

    value: Any
    why: str | None = None
    line: int | None = None
    byte: int | None = None


def json_records(content: bytes, lines: bool, records: str | None) -> list[Line]:
    """The records of a text.

    Args:
        content: UTF-8 without a mark.
        lines: whether each line must be a record of its own (.jsonl, .ndjson), or the whole may be one value.
        records: where in that value the list of records is ("data.products"); None: the value itself, or the only list
            of objects in it.

    Raises:
        MercatoError: the whole is not valid JSON, or has no list there.
    """
    if records is not None:
        return [_unwrapped(Line(record)) for record in _at(_whole(content), records)]
    if content.lstrip()[:1] == b"[":
        return [_unwrapped(Line(record)) for record in _whole(content)]
    found = list(_lines(content))
    if not lines and (wrapped := _wrapped(content, found)) is not None:
        return [_unwrapped(Line(record)) for record in wrapped]
    return [*_unbulked(found)] if found and _is_bulk(found[0].value) else [_unwrapped(line) for line in found]


def _lines(content: bytes) -> Iterator[Line]:
    offset = 0
    for number, line in enumerate(content.splitlines(keepends=True), 1):
        if line.strip():
            try:
                yield Line(_parse(line), None, number, offset)
            except ValueError as error:
                why = f"is not valid JSON: {getattr(error, 'msg', error)}"
                yield Line(line.strip(), why, number, offset)
        offset += len(line)


def _wrapped(content: bytes, lines: list[Line]) -> list[Any] | None:
    """The only list of objects in one object that is the whole text; None where it is not that."""
    if len(lines) == 1:
        whole = lines[0].value
    elif lines and lines[0].why is not None:  # over several lines
        try:
            whole = _parse(content)
        except ValueError:
            return None
    else:
        return None
    if not isinstance(whole, dict):
        return None
    lists = [value for value in whole.values() if isinstance(value, list) and all(isinstance(v, dict) for v in value)]
    plain = [value for value in whole.values() if not isinstance(value, list)]
    if len(lists) == 1 and lists[0] and all(isinstance(value, dict | int | float | bool | None) for value in plain):
        found: list[Any] = lists[0]
        return found
    return [whole] if len(lines) > 1 else None


def _at(whole: Any, path: str) -> list[Any]:
    for step in path.split("."):
        whole = whole.get(step) if isinstance(whole, dict) else None
    if not isinstance(whole, list):
        raise MercatoError(f"the map's records = {path!r} is no list in it")
    return whole


def _is_bulk(value: Any) -> bool:
    if not isinstance(value, dict) or len(value) != 1:
        return False
    (action, target), *_ = value.items()
    return action in _BULK and isinstance(target, dict) and target.keys() <= _BULK_FIELDS


def _unbulked(lines: list[Line]) -> Iterator[Line]:
    """The documents of a bulk request, each with the `_id` of the action before it; a delete has none."""
    waiting: tuple[str, dict[str, Any]] | None = None
    for line in lines:
        if waiting is None:
            if not _is_bulk(line.value):
                yield line._replace(why=line.why or "is no action of a bulk request (index, create, update, delete)")
            else:
                ((action, target),) = line.value.items()
                waiting = None if action == "delete" else (action, target)
            continue
        action, target = waiting
        waiting = None
        value = line.value.get("doc") if action == "update" and isinstance(line.value, dict) else line.value
        yield _unwrapped(line._replace(value=_with_id(value, target.get("_id"))))


def _unwrapped(line: Line) -> Line:
    """A record as it is, of a dumped document (`_source`) its content."""
    value = line.value
    if isinstance(value, dict) and isinstance(value.get("_source"), dict) and "_id" in value:
        return line._replace(value=_with_id(value["_source"], value["_id"]))
    return line


def _with_id(value: Any, name: Any) -> Any:
    return {"_id": name} | value if isinstance(value, dict) and name is not None else value


def _whole(content: bytes) -> Any:
    try:
        return _parse(content)
    except ValueError as error:
        raise MercatoError(f"not valid JSON: {error}") from None


def _parse(text: bytes) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        try:
            return json.loads(text)  # the NaN and Infinity that Python itself writes
        except RecursionError:
            raise ValueError("it is nested too deeply") from None
