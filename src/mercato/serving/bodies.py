"""Request and response bodies: the schema of the HTTP API's JSON, strict on what is read, every field bounded."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Base64Bytes, BaseModel, ConfigDict, Field, model_validator

from mercato.data import ids
from mercato.retrieval.expression import Filters, GeoRadius, category_path
from mercato.search.request import Location, SearchRequest

_FIRST, _LAST = datetime(1970, 1, 1, tzinfo=UTC), datetime(2200, 1, 1, tzinfo=UTC)
_KM_PER_MILE = 1.609344


def _encodable(text: str) -> str:
    if "\x00" in text or any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError("holds a character that cannot be written as UTF-8 text")
    return text


def _path(text: str) -> str:
    path = category_path(_encodable(text))
    if not path:
        raise ValueError("needs at least one name")
    return path


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank: give the words that were searched for")
    return text


def _utc(moment: datetime) -> datetime:
    moment = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment
    if not _FIRST <= moment < _LAST:
        raise ValueError("must lie between 1970 and 2200")
    return moment.astimezone(UTC)


def _equally_long(vectors: list[list[float]]) -> list[list[float]]:
    if len({len(vector) for vector in vectors}) > 1:
        raise ValueError("the vectors must all have the same length")
    return vectors


Name = Annotated[str, Field(max_length=256), AfterValidator(_encodable)]
Word = Annotated[str, Field(min_length=1, max_length=256), AfterValidator(_encodable)]
ProductId = Annotated[Word, AfterValidator(ids.checked)]
Query = Annotated[str, Field(max_length=512), AfterValidator(_encodable)]
QueryCount = Annotated[int, Field(ge=1, le=100, description="how many")]
ImagePosition = Annotated[int, Field(ge=0, lt=1000)]
Country = Annotated[str, Field(pattern="^[a-z]{2}$", description="ISO 3166-1 alpha-2, lower case")]
Language = Annotated[Name, AfterValidator(lambda text: text.strip().lower())]
ImageVector = Annotated[
    list[Annotated[float, Field(ge=-1e30, le=1e30, allow_inf_nan=False)]], Field(min_length=1, max_length=4096)
]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, le=1e12, allow_inf_nan=False)]
Latitude = Annotated[float, Field(ge=-90, le=90, allow_inf_nan=False)]
Longitude = Annotated[float, Field(ge=-180, le=180, allow_inf_nan=False)]
Attributes = Annotated[dict[Name, Name], Field(max_length=64)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LocationIn(_In):
    """Where the searcher is."""

    latitude: Latitude
    longitude: Longitude


class FiltersIn(_In):
    """What every hit must satisfy."""

    category: (
        Annotated[
            str,
            Field(min_length=1, max_length=256, description="a path: it and everything under it"),
            AfterValidator(_path),
        ]
        | None
    ) = None
    price_min: Price | None = None
    price_max: Price | None = None
    condition: Annotated[list[Word], Field(max_length=32, description="any of these")] | None = None
    country: Country | None = None
    seller_id: Word | None = None
    attributes: Annotated[dict[Word, Word], Field(max_length=64, description="all of these")] | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            raise ValueError("price_min: is above price_max")
        return self


class SearchIn(_In):
    """A search, or the next page of one (the same request with the last answer's cursor)."""

    query: Query = ""
    country: Annotated[Country | None, Field(description="the searcher's country")] = None
    location: LocationIn | None = None
    radius_km: Annotated[float, Field(gt=0, le=20_040, allow_inf_nan=False)] | None = None
    radius_miles: Annotated[float, Field(gt=0, le=12_452, allow_inf_nan=False)] | None = None
    filters: FiltersIn = FiltersIn()
    mode: Literal["hybrid", "semantic", "text"] = "hybrid"
    page_size: Annotated[int, Field(ge=1, le=100)] = 24
    cursor: Annotated[str, Field(min_length=1, max_length=12_000)] | None = None  # of 1,000 shown products: 10,800

    @model_validator(mode="after")
    def _radius_has_a_centre(self) -> Self:
        if self.radius_km is not None and self.radius_miles is not None:
            raise ValueError("radius_miles: give it or radius_km, not both")
        if self.radius is not None and self.location is None:
            raise ValueError("location: a radius needs one")
        return self

    @property
    def radius(self) -> float | None:
        """The radius in kilometres."""
        return self.radius_miles * _KM_PER_MILE if self.radius_miles is not None else self.radius_km

    def request(self) -> SearchRequest:
        """The search as a domain value."""
        return SearchRequest(
            query=self.query,
            country=self.country,
            location=Location(self.location.latitude, self.location.longitude) if self.location else None,
            filters=self._filters(),
            mode=self.mode,
            page_size=self.page_size,
            cursor=self.cursor,
        )

    def _filters(self) -> Filters:
        given, near = self.filters, None
        if self.location is not None and self.radius is not None:
            latitude, longitude = self.location.latitude, self.location.longitude
            near = GeoRadius(latitude=latitude, longitude=longitude, radius_km=self.radius)
        return Filters(
            category=given.category,
            price_min=given.price_min,
            price_max=given.price_max,
            conditions=tuple(given.condition or ()),
            country=given.country,
            seller_id=given.seller_id,
            attributes=dict(given.attributes or {}),
            near=near,
        )


class ExplainIn(_In):
    """A query and a product whose cosine is to be explained."""

    query: Annotated[Query, Field(json_schema_extra={"pattern": r"\S"}), AfterValidator(_not_blank)]
    country: Annotated[Country | None, Field(description="the searcher's")] = None
    product_id: ProductId


class ImageIn(_In):
    """An image: JPEG, PNG, WebP or anything else that can be read, 10 MiB at most."""

    base64: Base64Bytes


class ProductIn(_In):
    """A product as the products table has it."""

    product_id: ProductId
    title: Annotated[str, Field(min_length=1, max_length=1000), AfterValidator(_encodable)]
    description: Annotated[str, Field(max_length=50_000), AfterValidator(_encodable)] | None = None
    brand: Name | None = None
    category: Annotated[Name | None, Field(description='"A > B > C"')] = None
    price: Price | None = None
    currency: Annotated[str, Field(pattern="^[A-Z]{3}$")] | None = None
    condition: Name | None = None
    created_at: Annotated[datetime, AfterValidator(_utc)] | None = None
    country: Country | None = None
    language: Language | None = None
    latitude: Latitude | None = None
    longitude: Longitude | None = None
    seller_id: Annotated[Name, AfterValidator(ids.checked)] | None = None
    seller_rating: Finite | None = None
    rating: Finite | None = None
    attributes: Attributes | None = None
    images: Annotated[list[ImageIn], Field(max_length=10)] | None = None
    image_embeddings: Annotated[list[ImageVector], Field(max_length=10), AfterValidator(_equally_long)] | None = None


class ProductsIn(_In):
    """Products to write: new ones, and new versions of known ones."""

    products: Annotated[list[ProductIn], Field(min_length=1, max_length=1000)]

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        seen: set[str] = set()
        for number, product in enumerate(self.products):
            if product.product_id in seen:
                raise ValueError(f"products.{number}.product_id: is there twice")
            seen.add(product.product_id)
        return self


class EventsIn(BaseModel):
    """Events in the JSON of the UBI standard (1.3); what Mercato has no column for is ignored.

    A timestamp over five minutes ahead or a day old becomes the time of receipt; another wrong value is set aside. An
    event without a timestamp, an action_name or anything that tells its session refuses the whole body.
    """

    model_config = ConfigDict(extra="forbid")

    events: Annotated[list[dict[str, Any]], Field(min_length=1, max_length=1000)]


class EmbedIn(_In):
    """Queries or products to embed, one of the two."""

    queries: Annotated[list[Query], Field(min_length=1, max_length=256)] | None = None
    country: Country | None = None
    products: Annotated[list[ProductIn], Field(min_length=1, max_length=32)] | None = None

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.queries is None) == (self.products is None):
            raise ValueError("queries: give either queries or products")
        return self


class ProblemOut(BaseModel):
    """What went wrong; it names the field."""

    detail: str


class ProductOut(BaseModel):
    """A product as it is stored."""

    product_id: str
    title: str
    description: str | None
    brand: str | None
    category: str | None
    price: float | None
    currency: str | None
    condition: str | None
    created_at: datetime | None
    country: str | None
    language: str | None
    latitude: float | None
    longitude: float | None
    seller_id: str | None
    seller_rating: float | None
    rating: float | None
    attributes: dict[str, str | None] | None
    images: Annotated[list[str], Field(description="addresses on this server")]


class HitOut(BaseModel):
    """One result, with why it is there."""

    position: Annotated[int, Field(ge=1, description="counted from 1 over all pages")]
    product: ProductOut
    cosine: Annotated[float, Field(description="query · product; 0 where the search had no vector")]
    bm25: Annotated[float, Field(description="0 where no word matched")]
    found_by: list[Literal["ann", "text"]]
    exact: Annotated[bool, Field(description="holds every word of the query, one of them rare: listed first")]
    distance_km: Annotated[float | None, Field(description="from the searcher's location")]
    rank_score: Annotated[float | None, Field(description="the ranker's, higher is better; null where nothing ranked")]
    places: Annotated[
        dict[Literal["retrieval", "trees", "linear", "dlrm"], int] | None,
        Field(description="where each stage put it among the candidates, from 1; null where nothing ranked"),
    ]
    placed_by: Annotated[
        Literal["pin", "exploration"] | None,
        Field(description="a rule of the market, or a draw among new listings; null: its place is that of the order"),
    ]


class SearchOut(BaseModel):
    """A page of results."""

    query_id: Annotated[str, Field(description="log events of this search with it; the same on every page")]
    hits: list[HitOut]
    cursor: Annotated[str | None, Field(description="asks for the next page; null on the last")]
    truncated: Annotated[
        bool,
        Field(description="the last page, though there may be more than are looked at, or shown without a key"),
    ]
    total: Annotated[int, Field(ge=0, description="how many products match the filters, exactly")]
    ranked_by: Annotated[
        Literal["trees", "linear", "dlrm"] | None,
        Field(description="the last ranking stage there was time for; null: these are in the order of retrieval"),
    ]
    took_ms: float


class WordChangeOut(BaseModel):
    """What a word of the query does."""

    word: str
    change: Annotated[float, Field(description="of the cosine: with the word, less without it")]
    shared: Annotated[bool | None, Field(description="the listing has this word; null for one of signs only (&)")]


class FeatureChangeOut(BaseModel):
    """What one feature of the query or of the product does."""

    feature: Annotated[str, Field(description="a field of the products table, or the searcher's country")]
    change: Annotated[float, Field(description="of the cosine: with the feature, less without it")]


class ExplainOut(BaseModel):
    """What brings a query and a product together: how the cosine changes by each part of the two."""

    cosine: float
    words: Annotated[list[WordChangeOut], Field(description="the first 24 of the query, in its order")]
    query: Annotated[list[FeatureChangeOut], Field(description="what else the query has, the weightiest first")]
    product: Annotated[list[FeatureChangeOut], Field(description="the fields that change it, the weightiest first")]


class AcceptedOut(BaseModel):
    """How many were accepted: they are on disk."""

    accepted: int


class EventsOut(AcceptedOut):
    """How many events were accepted, and what of them was not."""

    set_aside: Annotated[list[str], Field(description='"events.0.latitude: why"; absent where nothing is')] = []
    unsigned: Annotated[int, Field(description="sent without a key and without a query_id of a search; not mined")] = 0


class VectorsOut(BaseModel):
    """One unit-length vector for each input, in order."""

    vectors: list[list[float]]


class ModelOut(BaseModel):
    """The model that embeds."""

    name: str
    dimension: int
    queries: Annotated[int, Field(ge=0, description="that it can predict for a product; 0 without a head")]


class PredictedQueryOut(BaseModel):
    """A query that people may search a product as."""

    query: str
    probability: Annotated[float, Field(ge=0, le=1, description="among all queries that the model can predict")]


class PredictedQueriesOut(BaseModel):
    """The most probable queries of a product, best first."""

    queries: list[PredictedQueryOut]


class PlaceOut(BaseModel):
    """A place where many of the catalogue's products are, those with the most first."""

    country: Annotated[str | None, Field(description="ISO 3166-1 alpha-2, lower case")]
    latitude: float
    longitude: float


class MarketOut(BaseModel):
    """What a search page needs to know about the market."""

    name: str
    currency: str
    model: ModelOut
    products: int
    categories: list[str]
    conditions: list[str]
    countries: list[str]
    attributes: dict[str, list[str]]
    places: list[PlaceOut]
    examples: list[str]


class StateOut(BaseModel):
    """Whether the server can work."""

    status: str
