"""What a seller may leave out: the fields that a run's product tower reads, and a product without some of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mercato.features.context import MADE_OF
from mercato.features.featurizer import FeatureSpec

Fields = dict[str, tuple[str, ...]]  # a field or a group of fields → the fields that are blank without it

TEXT = ("title", "description")
OWN = (*TEXT, "images", "language", "country")  # may have channels of their own; in the order shown
CHANNEL_FIELDS = {
    "text": TEXT,
    "title_text": ("title",),
    "title_trigrams": ("title",),
    "description_text": ("description",),
    "description_trigrams": ("description",),
}
COLUMNS = {"images": ("images", "image_embeddings", "image_count")}  # photos may already be vectors, or counted


def context_fields(spec: FeatureSpec) -> tuple[str, ...]:
    """The fields behind the context channel; what is derived (`relative_price`) stands for what it is computed from."""
    if spec.context is None:
        return ()
    names = [part.name for parts in (spec.context.numbers, spec.context.categories) for part in parts]
    return tuple(dict.fromkeys(field for name in names for field in MADE_OF.get(name, (name,))))


def fields_read(spec: FeatureSpec) -> tuple[str, ...]:
    """Every field that the product tower reads, through a channel of its own or through the context."""
    channels = [channel for channel in spec.product_channels if channel != "context"]
    read = {field for channel in channels for field in CHANNEL_FIELDS.get(channel, (channel,))}
    context = context_fields(spec)
    return tuple(dict.fromkeys([*(field for field in OWN if field in {*read, *context}), *context]))


def fields_and_groups(specs: Sequence[FeatureSpec], already: Sequence[str] = ()) -> Fields:
    """What any of the runs reads, but for what is `already` withheld, and the groups `text` and `context` of it.

    The group `context` holds neither texts nor photos, though the context may read their lengths and count. A group of
    fewer than two fields is left out.
    """
    read = dict.fromkeys(field for spec in specs for field in fields_read(spec))
    fields = [field for field in read if field.partition(".")[0] not in already]
    context = {field for spec in specs for field in context_fields(spec)} - {*TEXT, "images"}
    groups = {
        "text": tuple(field for field in fields if field in TEXT),
        "context": tuple(field for field in fields if field in context),
    }
    return {field: (field,) for field in fields} | {name: own for name, own in groups.items() if len(own) > 1}


def blank(product: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    """A row of the products table without these fields: null, an empty title, no attribute of that name.

    An attribute is called `attributes.NAME`; a row's attributes are (name, value) pairs, as Arrow gives them.
    """
    left = dict(product)
    for field in fields:
        column, _, attribute = field.partition(".")
        if attribute:
            left[column] = [(name, value) for name, value in left[column] or () if name != attribute]
        else:
            left |= {name: "" if name == "title" else None for name in COLUMNS.get(column, (column,)) if name in left}
    return left
