"""XML feeds (RSS, Atom, Google Merchant) as records: one for each `item` or `entry`."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import Element, ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import iterparse

from mercato.errors import MercatoError

_RECORDS = ("item", "entry")


def read_feed(path: Path, content: bytes) -> list[dict[str, Any]]:
    """The records of a feed: an element's name, without its namespace, and its text.

    What comes several times is a list, what has elements of its own is a record, and a link without text its address.
    A name of the feed's own (`title`) gives way to Google's (`g:title`).

    Raises:
        MercatoError: it is not XML, defines entities, or has no `item` and no `entry`.
    """
    records = []
    try:
        for _, element in iterparse(io.BytesIO(content)):
            if _local(element) in _RECORDS:
                records.append(_record(element))
                element.clear()
    except (ParseError, DefusedXmlException, ValueError) as error:
        raise MercatoError(f"{path}: cannot be read as XML: {error}") from None
    if not records:
        raise MercatoError(f"{path}: has no <item> and no <entry>: it is no feed")
    return records


def _record(element: Element) -> dict[str, Any]:
    known: dict[str, list[Element]] = {}
    for child in element:
        known.setdefault(_local(child), []).append(child)
    record: dict[str, Any] = {}
    for name, children in known.items():
        theirs = [child for child in children if "base.google.com" in child.tag] or children
        values = [value for child in theirs if (value := _value(child)) is not None]
        if values:
            record[name] = values if len(values) > 1 else values[0]
    return record


def _value(element: Element) -> Any:
    if len(element):
        return _record(element) or None
    return (element.text or "").strip() or element.get("href")


def _local(element: Element) -> str:
    return element.tag.rpartition("}")[2]
