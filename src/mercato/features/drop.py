"""To drop fields: a product as if its seller had left some of them out, as a row, a table or a tower's inputs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mercato.errors import MercatoError
from mercato.features.featurizer import Features, FeatureSpec
from mercato.fields import ATTRIBUTE, FIELDS, PRODUCT_CHANNELS, Field, channel_fields, field_of, of_kind, sources

Fields = dict[str, tuple[str, ...]]  # a field or a group of fields → the fields that are dropped for it


def drop_fields(product: Mapping[str, Any], fields: Iterable[str]) -> dict[str, Any]:
    """A product without these fields: null, an empty title, no attribute of that name; absent keys stay absent.

    Args:
        product: a row of the products schema, with its attributes in any of the shapes that they come in.
        fields: names of fields; one attribute is called `attributes.NAME`.

    Raises:
        MercatoError: there is no such field.
    """
    left = dict(product)
    for name in fields:
        field = _known(name)
        if name.startswith(ATTRIBUTE):
            if left.get("attributes"):
                left["attributes"] = _without(left["attributes"], name.removeprefix(ATTRIBUTE))
        else:
            left |= {column: field.empty for column in field.columns if column in left}
    return left


def drop_columns(products: pa.Table, fields: Iterable[str]) -> pa.Table:
    """A products table without these fields, as `drop_fields` of each row.

    Raises:
        MercatoError: there is no such field, or the table has no column of it.
    """
    for name in fields:
        columns = [column for column in _known(name).columns if column in products.column_names]
        if not columns:
            raise MercatoError(f"cannot drop {name!r}: the table has no such column")
        for column in columns:
            schema = products.schema.field(column)
            if name.startswith(ATTRIBUTE):
                rows = ({column: value} for value in products[column].to_pylist())
                dropped = pa.array([drop_fields(row, [name])[column] for row in rows], schema.type)
            else:
                dropped = pa.repeat(pa.scalar(_known(name).empty, schema.type), products.num_rows)
            products = products.set_column(products.column_names.index(column), schema, dropped)
    return products


def drop_features(
    features: Features, fields: Iterable[str], spec: FeatureSpec, rows_B: NDArray[np.bool_] | slice = slice(None)
) -> None:
    """Drop fields from some rows of the product tower's inputs, in place, as `drop_fields` before featurising them.

    Args:
        features: as `Featurizer.products` makes them.
        fields: names of fields.
        spec: of that featurizer.
        rows_B: which rows, bool; all by default.

    Raises:
        MercatoError: there is no such field, or it is joined with another in one array and cannot be told from it.
    """
    dropped = {name: _known(name) for name in fields}
    for channel in (PRODUCT_CHANNELS[name] for name in spec.product_channels):
        lost = dropped.keys() & set(channel.fields)
        if lost and (kept := set(channel.fields) - lost):
            raise MercatoError(f"cannot drop {min(lost)!r}: the channel {channel.name} joins it with {min(kept)!r}")
        for feature in channel.features if lost else ():
            if feature.name in features:
                features[feature.name][rows_B] = spec.missing(feature.name)
    for column, (field, _) in enumerate(spec.product_ids if "ids" in features else ()):
        if field in dropped:
            features["ids"][rows_B, column] = spec.missing("ids")
    if spec.context is not None and "context_numbers" in features:
        spec.context.drop(features, tuple(dropped), rows_B)


def context_fields(spec: FeatureSpec) -> tuple[str, ...]:
    """The fields behind the context channel; what is derived (`relative_price`) stands for what it is computed from."""
    if spec.context is None:
        return ()
    names = [part.name for parts in (spec.context.numbers, spec.context.categories) for part in parts]
    return tuple(dict.fromkeys(field for name in names for field in sources(name)))


def fields_read(spec: FeatureSpec) -> tuple[str, ...]:
    """Every field that the product tower reads, through a channel of its own or through the context.

    First, in the table's order, those that may have a channel; then the context's, in the recipe's.
    """
    context = context_fields(spec)
    ids = [field for field, _ in spec.product_ids if field in FIELDS]
    read = {*channel_fields(spec.product_channels), *context}
    first = [field for field in channel_fields(PRODUCT_CHANNELS) if field in read]
    return tuple(dict.fromkeys([*first, *context, *ids]))


def fields_and_groups(specs: Sequence[FeatureSpec], already: Sequence[str] = ()) -> Fields:
    """What any of the runs reads, but for what is `already` dropped, and the groups `text` and `context` of it.

    The group `context` holds neither texts nor images, though the context may read their lengths and count. A group of
    fewer than two fields is left out.
    """
    read = dict.fromkeys(field for spec in specs for field in fields_read(spec))
    fields = [field for field in read if field.partition(".")[0] not in already]
    context = {field for spec in specs for field in context_fields(spec)} - {*of_kind("text", "images")}
    groups = {
        "text": tuple(field for field in fields if field in of_kind("text")),
        "context": tuple(field for field in fields if field in context),
    }
    return {field: (field,) for field in fields} | {name: own for name, own in groups.items() if len(own) > 1}


def _known(name: str) -> Field:
    try:
        return field_of(name)
    except KeyError:
        raise MercatoError(
            f"cannot drop {name!r}: no such field of products; there are {', '.join(FIELDS)}, and {ATTRIBUTE}NAME"
        ) from None


def _without(attributes: Any, unwanted: str) -> Any:
    """Attributes, as a mapping, as pairs or as {key, value}, but for one."""
    if isinstance(attributes, Mapping):
        return {name: value for name, value in attributes.items() if name != unwanted}
    return [item for item in attributes if (item["key"] if isinstance(item, Mapping) else item[0]) != unwanted]
