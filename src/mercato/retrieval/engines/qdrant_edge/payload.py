"""How a product's fields stand in Qdrant: what is stored, how it is indexed, and what a filter asks of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import orjson
import qdrant_edge as qdrant

from mercato.retrieval.expression import Filters, category_path
from mercato.retrieval.protocol import IndexRecord

_METRES = 1000.0
_WIDER_KM = 0.001  # of a radius: the engine may round otherwise, and what it finds is held to ours

INDEXES: dict[str, Any] = {
    "category": qdrant.KeywordIndexParams(),
    "condition": qdrant.KeywordIndexParams(),
    "country": qdrant.KeywordIndexParams(),
    "seller_id": qdrant.KeywordIndexParams(),
    "attributes": qdrant.KeywordIndexParams(),
    "price": qdrant.FloatIndexParams(),
    "location": qdrant.GeoIndexParams(),
}


def payload(record: IndexRecord) -> dict[str, Any]:
    """Return what is stored with a record; a field that is absent is left out, so that no filter on it holds.

    A category is stored with all of its ancestors ("A", "A > B", "A > B > C"), which makes a subtree one keyword.
    """
    fields: dict[str, Any] = {
        "category": _ancestors(record.category) if record.category else None,
        "condition": record.condition,
        "country": record.country.strip().lower() if record.country else None,
        "seller_id": record.seller_id,
        "attributes": [_attribute(key, value) for key, value in record.attributes.items()],
        "price": record.price,
        "created_at": int(record.created_at.timestamp()) if record.created_at else 0,
    }
    if record.latitude is not None and record.longitude is not None:
        fields["location"] = {"lat": record.latitude, "lon": record.longitude}
    return {name: value for name, value in fields.items() if value not in (None, "", [])}


def held(fields: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """The keywords that a product of these fields holds, each with its field."""
    for name, value in fields.items():
        for keyword in value if isinstance(value, list) else [value] if isinstance(value, str) else ():
            yield name, keyword


def widened(filters: Filters) -> Filters:
    """The filters that the engine is to be given: on the edge of a radius it may find more than they leave."""
    if filters.near is None:
        return filters
    radius_km = filters.near.radius_km + _WIDER_KM
    return filters.model_copy(update={"near": filters.near.model_copy(update={"radius_km": radius_km})})


def condition(filters: Filters, without: Iterable[int] = ()) -> qdrant.Filter | None:
    """Translate `filters`, and that some rows are not to be found; None where that asks nothing."""
    must: list[Any] = list(_conditions(filters))
    hidden: set[Any] = {*without}
    must_not: list[Any] = [qdrant.HasIdCondition(hidden)] if hidden else []
    return qdrant.Filter(must=must, must_not=must_not) if must or must_not else None


def keywords(filters: Filters) -> Iterator[tuple[str, list[str]]]:
    """The keywords that filters ask for: a field, and those of which a product must have one."""
    for name in ("category", "country", "seller_id"):
        if (value := getattr(filters, name)) is not None:
            yield name, [value]
    if filters.conditions:
        yield "condition", list(filters.conditions)
    for key, value in filters.attributes.items():
        yield "attributes", [_attribute(key, value)]


def _conditions(filters: Filters) -> Iterator[qdrant.FieldCondition]:
    for name, any_of in keywords(filters):
        yield qdrant.FieldCondition(name, match=qdrant.MatchAny(any_of))
    if filters.price_min is not None or filters.price_max is not None:
        yield qdrant.FieldCondition("price", range=qdrant.RangeFloat(gte=filters.price_min, lte=filters.price_max))
    if filters.near is not None:
        centre = qdrant.GeoPoint(lon=filters.near.longitude, lat=filters.near.latitude)
        yield qdrant.FieldCondition("location", geo_radius=qdrant.GeoRadius(centre, filters.near.radius_km * _METRES))


def _ancestors(category: str) -> list[str]:
    names = category_path(category).split(" > ")
    return [" > ".join(names[: depth + 1]) for depth in range(len(names))]


def _attribute(key: str, value: str) -> str:
    return orjson.dumps([key.casefold(), value.casefold()]).decode()  # no sign that may stand in either parts them
