"""The towers of a recipe: what each reads, with what encoder, and how it fuses."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from mercato.config.base import Frozen
from mercato.fields import PRODUCT_CHANNELS, QUERY_CHANNELS, Channel


class TextEncoder(Frozen):
    """A tower's transformer over tokens: its own, or the first layers of the pretrained one."""

    layers: int = Field(ge=1)
    heads: int = Field(4, ge=1)  # from scratch only, as the next two
    hidden: int = Field(128, ge=8)
    feed_forward: int = Field(384, ge=8)
    dropout: float = Field(0.1, ge=0, lt=1)
    pooling: Literal["cls", "mean"] = "cls"
    prefix: str = ""  # put before every text, such as E5's "query: "

    @model_validator(mode="after")
    def _heads_fit(self) -> Self:
        if self.hidden % self.heads:
            raise ValueError(f"hidden: {self.hidden} is not a multiple of heads ({self.heads})")
        return self


def _channel_of(tower: str, table: Mapping[str, Channel]) -> AfterValidator:
    def check(name: str) -> str:
        if name not in table:
            raise ValueError(f"{name!r} is no channel of the {tower} tower; there are {', '.join(table)}")
        return name

    return AfterValidator(check)


QueryChannel = Annotated[str, _channel_of("query", QUERY_CHANNELS)]
ProductChannel = Annotated[str, _channel_of("product", PRODUCT_CHANNELS)]
LateFusion = Literal["attention", "concat", "wide_and_deep"]  # of one vector a channel


class QueryIds(Frozen):
    """The channel `ids` of queries: an embedding of each head query's own (`mercato.features.ids`)."""

    buckets: int = Field(20_000, ge=1)  # rows of the table
    least: int = Field(5, ge=1)  # engaged training pairs that make a query a head one


class QueryTower(Frozen):
    """Que2Search's query tower (§3.1); Que2Engage's concatenates its channels (§2.1.1)."""

    channels: tuple[QueryChannel, ...] = Field(("text", "trigrams", "country"), min_length=1)
    text: TextEncoder = TextEncoder(layers=2)
    fusion: LateFusion = "attention"
    max_tokens: int | None = Field(None, ge=3)  # None: the 99th percentile of the training queries (§3.5)
    ids: QueryIds = QueryIds()
    id_dropout: float = Field(0.0, ge=0, lt=1)  # how often training hides a query's id, as a query's that is none's


class Context(Frozen):
    """What Que2Engage's context encoder reads of a product (§2.1.2): see `mercato.features.context`."""

    # A column of products, an attribute as "attributes.NAME", or (a number) one that is derived: relative_price, age, …
    numbers: tuple[str, ...] = ("price", "relative_price", "age", "seller_rating", "image_count")
    categories: tuple[str, ...] = ("condition", "category")
    hidden: int = Field(128, ge=8)  # of its MLP

    @model_validator(mode="after")
    def _reads_something(self) -> Self:
        if not self.numbers and not self.categories:
            raise ValueError("numbers and categories are both empty: leave the context channel out instead")
        for field, names in (("numbers", self.numbers), ("categories", self.categories)):
            if len(set(names)) < len(names):
                raise ValueError(f"{field}: one is named twice")
        return self


class ModalityDropout(Frozen):
    """How often training hides a whole modality of a product, as if the seller had left it out (Que2Engage §2.1.4)."""

    context: float = Field(0.0, ge=0, lt=1)  # δ_c; the paper's: .5
    images: float = Field(0.0, ge=0, lt=1)  # δ_i; 0
    text: float = Field(0.0, ge=0, lt=1)  # δ_t, all of title and description; .5
    ids: float = Field(0.0, ge=0, lt=1)  # so that products never seen in training are found too


IdField = Literal["product_id", "seller_id", "category", "brand"]


class ProductIds(Frozen):
    """The channel `ids` of products: an embedding a field, hashed (`mercato.features.ids`)."""

    fields: tuple[IdField, ...] = Field(("product_id", "seller_id", "category", "brand"), min_length=1)
    product_buckets: int = Field(100_000, ge=1)  # rows of the product's own table
    buckets: int = Field(20_000, ge=1)  # of each other field's
    least: int = Field(2, ge=1)  # engaged training pairs that an id needs to be known

    @model_validator(mode="after")
    def _named_once(self) -> Self:
        if len(set(self.fields)) < len(self.fields):
            raise ValueError("fields: one is named twice")
        return self


class ProductTower(Frozen):
    """Que2Search's product tower (§3.1), or Que2Engage's (§2.1.3), by its fusion.

    One text encoder is shared by title and description unless told otherwise. The channel `text` reads both as one text
    instead: what a pretrained sentence encoder was made for. With the fusion `transformer` the encoder's upper layers
    read the tokens of all text channels and one token of every other channel together.
    """

    channels: tuple[ProductChannel, ...] = Field(
        ("title_text", "title_trigrams", "description_text", "description_trigrams", "language", "country", "images"),
        min_length=1,
    )
    text: TextEncoder = TextEncoder(layers=6)
    shared_text: bool = True
    fusion: LateFusion | Literal["transformer"] = "attention"
    fusion_layers: int | None = Field(None, ge=1)  # M, the upper layers that fuse, of `text.layers`; None: all (K = 0)
    missing: Literal["zeros", "token"] = "zeros"  # what a transformer reads in place of a channel that a product lacks
    image_token: Literal["set", "each"] = "set"  # deep sets over the images, or a token an image
    context: Context = Context()
    modality_dropout: ModalityDropout = ModalityDropout()
    ids: ProductIds = ProductIds()
    title_tokens: int = Field(32, ge=3)
    description_tokens: int = Field(64, ge=3)
