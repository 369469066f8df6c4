"""The table of fields and channels agrees with every room that reads it."""

from __future__ import annotations

import pytest

from mercato.config import ModalityDropout, ProductTower, Recipe
from mercato.data.schema import PRODUCTS
from mercato.errors import MercatoError
from mercato.features.featurizer import MAKERS
from mercato.fields import (
    DERIVED_NUMBERS,
    FIELDS,
    PRODUCT_CHANNELS,
    QUERY_CHANNELS,
    channel_groups,
    field_of,
    label_of,
    sources,
)
from mercato.models.encoders import ENCODERS


def test_every_column_of_products_is_of_one_field():
    columns = [column for field in FIELDS.values() for column in field.columns]
    assert sorted(columns) == sorted({*PRODUCTS.names, "image_count"} - {"product_id"})


def test_only_a_column_that_may_not_be_null_has_another_blank():
    assert {name for name, field in FIELDS.items() if field.empty is not None} == {"title"}


def test_channels_and_numbers_are_made_of_fields():
    named = {field for channel in PRODUCT_CHANNELS.values() for field in channel.fields}
    derived = {field for name in DERIVED_NUMBERS for field in sources(name)}
    assert named | derived <= FIELDS.keys()
    assert not DERIVED_NUMBERS.keys() & FIELDS.keys()


@pytest.mark.parametrize("table", [QUERY_CHANNELS, PRODUCT_CHANNELS], ids=["query", "product"])
def test_no_two_channels_of_a_tower_share_a_feature(table):
    names = [feature.name for channel in table.values() for feature in channel.features]
    assert len(set(names)) == len(names)
    for channel in table.values():  # training cuts and pads arrays by these endings
        for feature in channel.features:
            assert feature.ragged == feature.name.endswith(("tokens", "trigrams"))
            assert (feature.missing == "pad_id") == feature.name.endswith("tokens")


def test_every_kind_of_channel_has_its_arrays_and_its_encoder():
    kinds = {channel.kind for channel in [*QUERY_CHANNELS.values(), *PRODUCT_CHANNELS.values()]}
    assert kinds == MAKERS.keys() == {*ENCODERS, "text"}


def test_modality_dropout_drops_modalities_of_the_table():
    assert set(ModalityDropout.model_fields) <= {channel.modality for channel in PRODUCT_CHANNELS.values()}


def test_channels_group_by_field():
    assert channel_groups(QUERY_CHANNELS) == {"text": ("text", "trigrams"), "country": ("country",), "ids": ("ids",)}
    assert channel_groups(PRODUCT_CHANNELS) == {
        "title": ("title_text", "title_trigrams"),
        "description": ("description_text", "description_trigrams"),
        "text": ("text",),
        "language": ("language",),
        "country": ("country",),
        "images": ("images", "patches"),
        "context": ("context",),
        "ids": ("ids",),
    }


def test_a_recipe_may_name_every_channel_and_no_other():
    assert ProductTower(channels=tuple(PRODUCT_CHANNELS)).channels == tuple(PRODUCT_CHANNELS)
    with pytest.raises(MercatoError, match=r"product_tower\.channels\.1: .*'titel' is no channel of the product tower"):
        Recipe.parse('name = "x"\nproduct_tower = { channels = ["images", "titel"] }')
    with pytest.raises(MercatoError, match="there are text, trigrams, country, ids"):
        Recipe.parse('name = "x"\nquery_tower = { channels = ["images"] }')


def test_people_read_labels_not_columns():
    names = ("images", "created_at", "seller_rating", "attributes.frame_size", "title_text")
    assert [label_of(name) for name in names] == ["images", "listing date", "seller rating", "frame size", "title text"]


def test_an_attribute_is_a_field():
    assert field_of("attributes.colour") is FIELDS["attributes"] and sources("attributes.seats") == (
        "attributes.seats",
    )
    with pytest.raises(KeyError):
        field_of("colour")
