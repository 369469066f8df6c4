"""To drop a field means the same of a row, of a table and of a tower's inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mercato.config import Context
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.features.context import CATEGORIES, NUMBERS, ContextSpec
from mercato.features.drop import drop_columns, drop_features, drop_fields, fields_and_groups, fields_read
from mercato.features.featurizer import Features, FeatureSpec, Featurizer
from mercato.features.ids import fit_ids
from mercato.features.tokenizer import train_tokenizer
from mercato.fields import FIELDS, PRODUCT_CHANNELS

NOW = datetime(2025, 2, 1, tzinfo=UTC)
QUE2SEARCH = ("title_text", "title_trigrams", "description_text", "language", "country", "images")
PRODUCT = {
    "product_id": "a",
    "title": "Red sofa",
    "description": "Soft",
    "category": "Home > Sofas",
    "price": 90.0,
    "condition": "used",
    "created_at": datetime(2025, 1, 1, tzinfo=UTC),
    "attributes": [("colour", "red"), ("seats", "2")],
    "image_embeddings": [[1.0, 0.0]],
}
WHOLE = PRODUCT | {
    "brand": "Ercol", "currency": "usd", "country": "us", "language": "en", "latitude": 1.5, "longitude": 2.5,
    "seller_id": "s", "seller_rating": 4.0, "rating": 3.0, "images": [{"bytes": b"x", "path": None}], "image_count": 1,
}  # fmt: skip
EVERY = (*FIELDS, "attributes.colour", "attributes.seats", "attributes.none")
APART = tuple(channel for channel in PRODUCT_CHANNELS if channel != "text")  # which joins two fields in one array
EITHER = ("images", "patches")  # of which a run reads one


def spec(*channels: str, **context: tuple[str, ...]) -> FeatureSpec:
    """A run that reads these; `numbers` and `categories` are of its context."""
    read = None
    if context:
        declared = Context(**{"numbers": (), "categories": ()} | context)
        goods = [WHOLE | {"price": 50.0 + i, "rating": i % 5, "seller_rating": i % 4} for i in range(20)]
        read = ContextSpec.fit(declared, goods, NOW)
    return FeatureSpec(
        query_channels=(), product_channels=channels, pad_id=0, vocabulary=1, buckets=50, query_tokens=8,
        query_characters=8, title_tokens=8, description_tokens=8, countries=("us",), languages=("en",),
        max_images=3, image_dimension=2, image_patches=int("patches" in channels), context=read,
    )  # fmt: skip


@pytest.fixture(scope="module", params=EITHER)
def whole(request: pytest.FixtureRequest) -> Featurizer:
    """A run that reads every field there is."""
    channels = [channel for channel in APART if channel not in EITHER or channel == request.param]
    numbers = (*NUMBERS, "attributes.seats")
    every = spec(*channels, numbers=numbers, categories=(*CATEGORIES, "attributes.colour"))
    tokenizer = train_tokenizer(["red sofa", "soft", "a chair of wood"], 60)
    ids = ("product_id", "seller_id", "category", "brand")
    every = replace(every, vocabulary=tokenizer.get_vocab_size(), product_ids=tuple((field, 9) for field in ids))
    return Featurizer(every, tokenizer, {field: fit_ids(field, [WHOLE[field]], 1) for field in ids})


def featurised(featurizer: Featurizer, rows: list[dict[str, Any]]) -> Features:
    shape = featurizer.spec.image_shape
    given = [row.get("image_embeddings") for row in rows]
    vectors = [np.array(own, np.float32).reshape(-1, *shape) if own else None for own in given]
    return featurizer.products(rows, vectors, NOW)


def assert_same(found: Features, expected: Features) -> None:
    """But for padding, which is as long as the longest row of a batch."""
    assert list(found) == list(expected)
    for name, array in expected.items():
        own = found[name]
        if name.endswith(("tokens", "trigrams")):
            assert not own[:, array.shape[1] :].any()
            own = own[:, : array.shape[1]]
        np.testing.assert_array_equal(own, array, err_msg=name)


# --- of a row


def test_a_dropped_field_is_gone_and_the_others_stay():
    left = drop_fields(PRODUCT, ("title", "images", "price", "attributes.colour"))
    changed = {name for name in PRODUCT if left[name] != PRODUCT[name]}
    assert changed == {"title", "image_embeddings", "price", "attributes"}
    assert left["title"] == "" and left["price"] is None and left["image_embeddings"] is None
    assert left["attributes"] == [("seats", "2")]
    assert set(left) == set(PRODUCT)


@pytest.mark.parametrize(
    ("attributes", "left"),
    [
        ({"colour": "red", "seats": "2"}, {"seats": "2"}),
        ([("colour", "red"), ("seats", "2")], [("seats", "2")]),
        ([{"key": "colour", "value": "red"}, {"key": "seats", "value": "2"}], [{"key": "seats", "value": "2"}]),
        ([], []),
        (None, None),
    ],
    ids=["mapping", "pairs", "key and value", "none of them", "null"],
)
def test_an_attribute_is_dropped_in_every_shape_that_attributes_come_in(attributes, left):
    assert drop_fields({"attributes": attributes}, ["attributes.colour"]) == {"attributes": left}
    assert drop_fields({"attributes": attributes}, ["attributes"]) == {"attributes": None}


@given(st.lists(st.sampled_from(EVERY)))
def test_to_drop_twice_is_to_drop_once(fields: list[str]):
    once = drop_fields(WHOLE, fields)
    assert drop_fields(once, fields) == once
    assert drop_fields(once, fields[::-1]) == once == drop_fields(WHOLE, fields[::-1])


def test_what_is_no_field_is_named():
    for drop in (lambda: drop_fields(PRODUCT, ["colour"]), lambda: drop_columns(table(), ["colour"])):
        with pytest.raises(MercatoError, match=r"cannot drop 'colour'.* title, .*, and attributes\.NAME"):
            drop()
    with pytest.raises(MercatoError, match="cannot drop 'brand': the table has no such column"):
        drop_columns(table().select(["product_id", "title"]), ["brand"])


# --- of a table


def table() -> pa.Table:
    rows = [WHOLE, PRODUCT, {"product_id": "b", "title": "Lamp", "attributes": []}, {"product_id": "c", "title": "Bed"}]
    return pa.Table.from_pylist(rows, PRODUCTS)


@given(st.lists(st.sampled_from(EVERY), unique=True))
def test_of_a_table_as_of_its_rows(fields: list[str]):
    left = drop_columns(table(), fields)
    assert left.schema == PRODUCTS
    assert left.to_pylist() == [drop_fields(row, fields) for row in table().to_pylist()]


# --- of a tower's inputs


def apart(fields: list[str]) -> bool:
    """Whether features can tell: a price was already read by its currency, where that is dropped alone."""
    return "currency" not in fields or "price" in fields


@given(st.lists(st.sampled_from(EVERY), unique=True).filter(apart), st.lists(st.booleans(), min_size=3, max_size=3))
def test_of_features_as_of_the_rows_before(whole: Featurizer, fields: list[str], which: list[bool]):
    rows: list[Mapping[str, Any]] = [WHOLE, PRODUCT, WHOLE | {"title": "A chair", "price": 70.0}]
    features = featurised(whole, rows)
    drop_features(features, fields, whole.spec, np.array(which))
    dropped = [drop_fields(row, fields) if own else row for row, own in zip(rows, which, strict=True)]
    assert_same(features, featurised(whole, dropped))


@pytest.mark.parametrize("field", [field for field in EVERY if field not in ("currency", "attributes.none")])
def test_every_field_that_is_dropped_changes_something(whole, field):
    features = featurised(whole, [WHOLE])
    drop_features(features, [field], whole.spec)
    before = featurised(whole, [WHOLE])
    assert any((features[name] != before[name]).any() for name in before)


def test_what_is_joined_in_one_array_cannot_be_dropped_apart(whole):
    joined = Featurizer(replace(whole.spec, product_channels=("text",), context=None), whole.tokenizer)
    features = featurised(joined, [WHOLE])
    with pytest.raises(MercatoError, match="cannot drop 'title': the channel text joins it with 'description'"):
        drop_features(features, ["title"], joined.spec)
    drop_features(features, ["title", "description"], joined.spec)
    assert not features["text_tokens"].any()
    with pytest.raises(MercatoError, match="cannot drop 'currency' from the context without 'price'"):
        drop_features(featurised(whole, [WHOLE]), ["currency"], whole.spec)


def test_a_price_that_is_dropped_is_unknown_and_so_is_all_that_derives_from_it():
    read = spec("context", numbers=("price", "relative_price", "age"))
    assert read.context is not None
    missing = read.context.features([PRODUCT, drop_fields(PRODUCT, ("price",))], NOW)["context_numbers"][:, 3:]
    assert missing.tolist() == [[0, 0, 0], [1, 1, 0]]


# --- what a run reads


def test_a_run_reads_the_fields_of_its_channels():
    assert fields_read(spec(*QUE2SEARCH)) == ("title", "description", "images", "language", "country")
    assert fields_read(spec("text", "images")) == ("title", "description", "images")
    assert fields_read(spec("description_trigrams")) == ("description",)
    assert fields_read(spec("text", "patches")) == ("title", "description", "images")


def test_a_derived_number_stands_for_what_it_is_computed_from():
    read = spec("title_text", "context", numbers=("relative_price", "age", "image_count"), categories=("condition",))
    assert fields_read(read) == ("title", "images", "price", "category", "created_at", "condition")
    assert fields_read(spec("context", numbers=("attributes.seats", "description_length"))) == (
        "description",
        "attributes.seats",
    )


def test_groups_hold_the_texts_and_the_rest_of_the_context():
    numbers = ("price", "image_count", "title_length")
    engage = spec("title_text", "images", "context", numbers=numbers, categories=("country",))
    fields = fields_and_groups([spec(*QUE2SEARCH), engage])
    assert fields["text"] == ("title", "description")
    assert fields["context"] == ("country", "price")  # not the images and the title, whose count and length are read
    assert fields["images"] == ("images",)
    assert "context" not in fields_and_groups([spec(*QUE2SEARCH)])


def test_what_is_dropped_from_the_start_is_no_field():
    assert set(fields_and_groups([spec(*QUE2SEARCH)], ["title"])) == {"description", "images", "language", "country"}
    seats = spec("context", numbers=("attributes.seats", "price"), categories=("condition",))
    assert fields_and_groups([seats], ["attributes"])["context"] == ("price", "condition")
