"""Fields and channels: the one table of what is known of each, read by every room.

A *field* is what a seller fills in or leaves out: one or several columns of the products table. A *channel* is what a
tower reads of one or several fields, with an encoder of its own. A new one is an entry here; a channel of a new *kind*
also needs its arrays (`mercato.features.featurizer.MAKERS`) and its encoder (`mercato.models.encoders.ENCODERS`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

FieldKind = Literal["text", "images", "category", "number", "time", "attributes"]
ChannelKind = Literal["text", "trigrams", "category", "images", "patches", "context", "ids"]

ATTRIBUTE = "attributes."  # an attribute is a field too, as "attributes.NAME"


@dataclass(frozen=True, kw_only=True)
class Field:
    """A field of a product. Left out, its columns are null (a title, which no product may lack, is empty)."""

    name: str  # of its column
    kind: FieldKind
    also_in: tuple[str, ...] = ()  # other columns that hold it
    empty: str | None = None  # what its columns hold where it is left out
    label: str | None = None  # what a person calls it; None: its name
    searched: bool = False  # BM25 reads it
    characters: int = 128  # that trigrams are taken of

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the products table that hold it."""
        return (self.name, *self.also_in)


@dataclass(frozen=True)
class Feature:
    """An array that a tower reads, first axis the batch."""

    name: str
    missing: int | Literal["pad_id"] = 0  # what it holds where a product lacks the field
    ragged: bool = False  # ids (B, L), filled up to the longest row of the batch
    half: bool = False  # so much that a table of a whole catalogue holds it in half precision


@dataclass(frozen=True, kw_only=True)
class Channel:
    """A channel of a tower: one encoder's input."""

    name: str
    kind: ChannelKind
    fields: tuple[str, ...] = ()  # of the product; those of context and ids are the recipe's
    features: tuple[Feature, ...]  # in the order that the encoder takes them
    group: str | None = None  # what gradient blending and `mercato explain` take as one; None: by its field

    @property
    def modality(self) -> str:
        """What modality dropout drops together: text, images, context or ids; a category is one of its own."""
        of_kind = {"text": "text", "trigrams": "text", "images": "images", "patches": "images", "context": "context"}
        return of_kind.get(self.kind, self.name)


_T = TypeVar("_T", Field, Channel)


def _named(*entries: _T) -> Mapping[str, _T]:
    return {entry.name: entry for entry in entries}


def _tokens(name: str) -> tuple[Feature, ...]:
    return (Feature(name, "pad_id", ragged=True),)


def _trigrams(name: str) -> tuple[Feature, ...]:
    return (Feature(name, ragged=True),)


FIELDS = _named(
    Field(name="title", kind="text", empty="", searched=True),
    Field(name="description", kind="text", searched=True, characters=256),
    Field(name="images", kind="images", also_in=("image_embeddings", "image_count")),
    Field(name="language", kind="category"),
    Field(name="country", kind="category"),
    Field(name="brand", kind="category", searched=True),
    Field(name="category", kind="category", searched=True),
    Field(name="price", kind="number"),
    Field(name="currency", kind="category"),
    Field(name="condition", kind="category"),
    Field(name="created_at", kind="time", label="listing date"),
    Field(name="latitude", kind="number"),
    Field(name="longitude", kind="number"),
    Field(name="seller_id", kind="category"),
    Field(name="seller_rating", kind="number"),
    Field(name="rating", kind="number"),
    Field(name="attributes", kind="attributes", searched=True),
)
"""Every field of a product by name, in the order shown."""

QUERY_CHANNELS = _named(
    Channel(name="text", kind="text", features=_tokens("tokens"), group="text"),
    Channel(name="trigrams", kind="trigrams", features=_trigrams("trigrams"), group="text"),
    Channel(name="country", kind="category", features=(Feature("country"),)),
    Channel(name="ids", kind="ids", features=(Feature("query_ids"),)),
)
"""The query tower's channels by name, in the order of its features and encoders."""

PRODUCT_CHANNELS = _named(
    Channel(name="title_text", kind="text", fields=("title",), features=_tokens("title_tokens")),
    Channel(name="title_trigrams", kind="trigrams", fields=("title",), features=_trigrams("title_trigrams")),
    Channel(name="description_text", kind="text", fields=("description",), features=_tokens("description_tokens")),
    Channel(
        name="description_trigrams", kind="trigrams", fields=("description",),
        features=_trigrams("description_trigrams"),
    ),
    Channel(
        name="text", kind="text", fields=("title", "description"), features=_tokens("text_tokens"), group="text"
    ),
    Channel(name="language", kind="category", fields=("language",), features=(Feature("language"),)),
    Channel(name="country", kind="category", fields=("country",), features=(Feature("country"),)),
    Channel(
        name="images", kind="images", fields=("images",), features=(Feature("images", half=True), Feature("image_mask"))
    ),
    Channel(
        name="patches", kind="patches", fields=("images",),
        features=(Feature("patches", half=True), Feature("patch_mask")),
    ),
    Channel(
        name="context", kind="context", features=(Feature("context_numbers"), Feature("context_categories"))
    ),
    Channel(name="ids", kind="ids", features=(Feature("ids"),)),
)  # fmt: skip
"""The product tower's channels by name, in the order of its features."""

DERIVED_NUMBERS: Mapping[str, tuple[str, ...]] = {
    "relative_price": ("price", "category"),
    "age": ("created_at",),
    "image_count": ("images",),
    "title_length": ("title",),
    "description_length": ("description",),
}
"""Numbers of the context that are no column, and the fields that each is computed from."""

FEATURES: Mapping[str, Feature] = {
    feature.name: feature
    for channels in (QUERY_CHANNELS, PRODUCT_CHANNELS)
    for channel in channels.values()
    for feature in channel.features
}
"""Every array that a tower reads, by name."""

SEARCHED = tuple(field.name for field in FIELDS.values() if field.searched)
"""The fields that BM25 reads."""


def of_kind(*kinds: FieldKind) -> tuple[str, ...]:
    """The names of all fields of these kinds."""
    return tuple(field.name for field in FIELDS.values() if field.kind in kinds)


def field_of(name: str) -> Field:
    """A field by its name; an attribute's is `attributes`.

    Raises:
        KeyError: there is none.
    """
    return FIELDS["attributes" if name.startswith(ATTRIBUTE) else name]


def label_of(name: str) -> str:
    """What a person calls a field, an attribute or a channel."""
    field = FIELDS.get(name)
    return field.label if field and field.label else name.removeprefix(ATTRIBUTE).replace("_", " ")


def sources(name: str) -> tuple[str, ...]:
    """The fields that a number or category of the context is made of; an attribute goes by `attributes.NAME`."""
    return DERIVED_NUMBERS.get(name, (name,))


def channel_fields(channels: Iterable[str], *kinds: ChannelKind) -> tuple[str, ...]:
    """The fields that some channels of a product tower read, in the table's order; `kinds`: of those kinds alone."""
    own = [PRODUCT_CHANNELS[name] for name in channels]
    read = {field for channel in own if not kinds or channel.kind in kinds for field in channel.fields}
    return tuple(field for field in FIELDS if field in read)


def channel_groups(channels: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """A tower's channels by what they read: title_text and title_trigrams are the title (Que2Search §3.6)."""
    known = {**QUERY_CHANNELS, **PRODUCT_CHANNELS}
    found: dict[str, tuple[str, ...]] = {}
    for channel in channels:
        group = known[channel].group or (known[channel].fields or (channel,))[0]
        found[group] = (*found.get(group, ()), channel)
    return found
