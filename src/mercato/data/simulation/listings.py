"""The catalogue: what each seller offers, at what price, and what of it the seller writes down."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from mercato.data.schema import IMAGE, PRODUCTS, TIMESTAMP
from mercato.data.simulation import language as words
from mercato.data.simulation.ontology import COLOURS, CONDITIONS, COUNTRIES, MATERIALS, PATTERNS, TYPE_NUMBER, TYPES, ProductType
from mercato.data.simulation.photos import Look
from mercato.data.simulation.relevance import NOTHING, SLOTS, Bools, Floats, Ints, Things

LOG_START = datetime(2026, 3, 2, tzinfo=UTC)  # a Monday
LOG_DAYS = 35
LISTED_BEFORE = 35  # listings of as many days before the log begins are still there

GARAGE_SHARE = 0.045
SAYS_COLOUR, SAYS_PATTERN, SAYS_MATERIAL, SAYS_BRAND, SAYS_SIZE = 0.55, 0.5, 0.5, 0.5, 0.7
NO_DESCRIPTION, VAGUE_TITLE, MISSPELLED = 0.25, 0.08, 0.07
SECOND_LANGUAGE = 0.06
NO_PHOTO = 0.05
UNFAIR = 0.12  # strongly overpriced
CONDITION_VALUE = {"new": 1.0, "like_new": 0.8, "good": 0.6, "fair": 0.42, "worn": 0.25}


@dataclass(frozen=True)
class Listing:
    """What a seller wrote, and what is really there (the last four fields are hidden from every model)."""

    title: str
    description: str | None
    brand: str | None
    category: str | None
    attributes: dict[str, str]
    written_language: str
    looks: tuple[Look, ...]
    true_brand: str
    true_size: str
    text_says: tuple[bool, bool, bool]  # whether the text gives colour, pattern, material


@dataclass(frozen=True)
class Catalogue:
    """All listings, as rows; days count from LOG_START (negative: before)."""

    ids: list[str]
    listings: list[Listing]
    things: Things
    photos: Ints  # (n,) how many
    country: Ints  # (n,) number in COUNTRIES
    latitude: Floats
    longitude: Floats
    created: Floats  # (n,) days
    price: npt.NDArray[np.object_]  # (n,) float or None
    unfairness: Floats  # (n,) log(price / fair value)
    condition: Ints  # (n,) number in CONDITIONS
    condition_said: Bools
    seller: Ints
    seller_rating: Floats
    rating: npt.NDArray[np.object_]


def make_catalogue(count: int, chance: np.random.Generator) -> Catalogue:
    """Draw `count` listings; row order and ids say nothing about what is in them."""
    shares = np.array([place.share for place in COUNTRIES])
    sellers = max(20, count // 4)
    seller_country = chance.choice(len(COUNTRIES), sellers, p=shares)
    seller_stars = np.clip(5.15 - chance.gamma(1.6, 0.42, sellers), 1.5, 5.0).round(1)
    weights = chance.pareto(1.4, sellers) + 0.3
    seller = chance.choice(sellers, count, p=weights / weights.sum())
    country = seller_country[seller]
    near_city = np.array([COUNTRIES[c].cities[int(chance.integers(len(COUNTRIES[c].cities)))][1:] for c in country])
    popularity = np.array([kind.popularity for kind in TYPES])
    types = chance.choice(len(TYPES), (count, SLOTS), p=popularity / popularity.sum())
    several = chance.random(count) < GARAGE_SHARE
    filled = np.where(several, chance.integers(3, SLOTS + 1, count), 1)
    condition = chance.choice(len(CONDITIONS), count, p=(0.16, 0.22, 0.34, 0.18, 0.10))
    years = np.where(condition == 0, 0, chance.geometric(0.28, count))
    listings, photos, price, unfairness = [], np.zeros(count, np.int64), np.full(count, None, object), np.zeros(count)
    for row in range(count):
        kinds = [TYPES[t] for t in types[row, : filled[row]]]
        place = COUNTRIES[country[row]]
        listing = _write(chance, kinds, place.language, place.second_language, CONDITIONS[condition[row]], int(years[row]))
        listings.append(listing)
        photos[row] = len(kinds) if several[row] else int(chance.choice(6, p=_PHOTO_COUNTS))
        fair = _fair_value(kinds, listing, CONDITIONS[condition[row]], int(years[row])) * place.dollars
        unfairness[row] = chance.normal(0, 0.30) + (chance.uniform(0.45, 0.9) if chance.random() < UNFAIR else 0.0)
        price[row] = _asked(fair * np.exp(unfairness[row])) if chance.random() > 0.02 else None
    return Catalogue(
        ids=[f"p{number:010x}" for number in _distinct(chance, count)],
        listings=listings,
        things=_as_seen(listings, types, filled, photos > 0),
        photos=photos,
        country=country,
        latitude=near_city[:, 0] + chance.normal(0, 0.16, count),
        longitude=near_city[:, 1] + chance.normal(0, 0.20, count),
        created=chance.uniform(-LISTED_BEFORE, LOG_DAYS, count),
        price=price,
        unfairness=unfairness,
        condition=condition,
        condition_said=chance.random(count) < 0.82,
        seller=seller,
        seller_rating=np.where(chance.random(sellers) < 0.1, np.nan, seller_stars)[seller],
        rating=np.where(chance.random(count) < 0.15, np.clip(chance.normal(4.2, 0.5, count), 1, 5).round(1), None),
    )


_PHOTO_COUNTS = (NO_PHOTO, 0.34, 0.26, 0.18, 0.11, 0.06)


def products_table(catalogue: Catalogue, start: int, stop: int, photos: list[list[bytes]]) -> pa.Table:
    """Rows start..stop of the products table, with their photos."""
    rows = range(start, stop)
    listings = catalogue.listings[start:stop]
    created = [LOG_START + timedelta(days=float(catalogue.created[row])) for row in rows]
    places = [COUNTRIES[catalogue.country[row]] for row in rows]
    located = [catalogue.seller[row] % 25 != 0 for row in rows]  # some sellers hide their place
    columns = {
        "product_id": catalogue.ids[start:stop],
        "title": [listing.title for listing in listings],
        "description": [listing.description for listing in listings],
        "brand": [listing.brand for listing in listings],
        "category": [listing.category for listing in listings],
        "price": list(catalogue.price[start:stop]),
        "currency": [place.currency for place in places],
        "condition": [CONDITIONS[catalogue.condition[r]] if catalogue.condition_said[r] else None for r in rows],
        "created_at": pa.array(created, TIMESTAMP),
        "country": [place.code for place in places],
        "language": [listing.written_language for listing in listings],
        "latitude": [round(float(catalogue.latitude[r]), 4) if kept else None for r, kept in zip(rows, located, strict=True)],
        "longitude": [round(float(catalogue.longitude[r]), 4) if kept else None for r, kept in zip(rows, located, strict=True)],
        "seller_id": [f"s{catalogue.seller[row]:06d}" for row in rows],
        "seller_rating": pa.array(catalogue.seller_rating[start:stop], pa.float64(), from_pandas=True),
        "rating": list(catalogue.rating[start:stop]),
        "attributes": [list(listing.attributes.items()) or None for listing in listings],
        "images": pa.array([[{"bytes": photo, "path": None} for photo in some] for some in photos], pa.list_(IMAGE)),
        "image_embeddings": pa.nulls(stop - start, PRODUCTS.field("image_embeddings").type),
    }
    return pa.table(columns, schema=PRODUCTS)


def truth_table(catalogue: Catalogue) -> pa.Table:
    """What is really in each listing: for tests and diagnosis, never for a model."""
    first = [listing.looks[0] for listing in catalogue.listings]
    says = np.array([listing.text_says for listing in catalogue.listings])
    return pa.table(
        {
            "product_id": catalogue.ids,
            "types": [[TYPES[look.type].key for look in listing.looks] for listing in catalogue.listings],
            "type": [TYPES[look.type].key for look in first],
            "colour": [look.colour for look in first],
            "pattern": [look.pattern for look in first],
            "material": [look.material for look in first],
            "brand": [listing.true_brand for listing in catalogue.listings],
            "size": [listing.true_size for listing in catalogue.listings],
            "true_category": [TYPES[look.type].category for look in first],
            "text_says_colour": says[:, 0],
            "text_says_pattern": says[:, 1],
            "text_says_material": says[:, 2],
            "unfairness": catalogue.unfairness,
            "condition": [CONDITIONS[number] for number in catalogue.condition],
        }
    )


def _write(
    chance: np.random.Generator, kinds: list[ProductType], home: str, second: str, condition: str, years: int
) -> Listing:
    """One listing: of one thing, or a garage sale of several."""
    tongue = second if chance.random() < SECOND_LANGUAGE else home
    looks = tuple(_look(chance, kind) for kind in kinds)
    kind = kinds[0]
    brand = words.choose(chance, kind.brands, 0.8)
    size = words.choose(chance, kind.sizes) if kind.sizes else ""
    if len(kinds) > 1:
        return _garage_sale(chance, kinds, looks, tongue)
    look = looks[0]
    says = tuple(chance.random(3) < (SAYS_COLOUR, SAYS_PATTERN, SAYS_MATERIAL))
    told = [v for v, said in zip((look.colour, look.pattern, look.material), says, strict=True) if said and v != "plain"]
    in_title = [value for value in told if chance.random() < 0.6]
    elsewhere = [value for value in told if value not in in_title]
    says_brand, says_size = chance.random() < SAYS_BRAND, bool(size) and chance.random() < SAYS_SIZE
    name = words.choose(chance, kind.names[tongue], 1.3)
    title = words.phrase(chance, tongue, name, in_title)
    if says_brand and chance.random() < 0.5:
        title = f"{brand} {title}" if chance.random() < 0.6 else f"{title} {brand}"
    if says_size and chance.random() < 0.6:
        title = f"{title} {words.size_words(tongue, size)}"
    if chance.random() < 0.18:
        title = f"{title}, {words.condition_words(chance, condition, tongue)}"
    if chance.random() < 0.15:
        title = f"{title} {words.choose(chance, words.TITLE_TALK[tongue])}"
    vague = chance.random() < VAGUE_TITLE
    if vague:
        title, elsewhere = words.choose(chance, words.VAGUE[tongue]), told
    if chance.random() < MISSPELLED:
        title = words.misspell(chance, title)
    if chance.random() < 0.5:
        title = title[0].upper() + title[1:]
    elif chance.random() < 0.12:
        title = title.upper()
    in_fields = {key for key in ("colour", "pattern", "material", "size") if chance.random() < 0.35}
    values = {"colour": look.colour, "pattern": look.pattern.replace("plain", ""), "material": look.material, "size": size}
    stated = {"colour": says[0], "pattern": says[1], "material": says[2], "size": says_size}
    attributes = {key: value for key, value in values.items() if key in in_fields and stated[key] and value}
    in_fields_only = [value for value in elsewhere if value in attributes.values()]
    description = None
    if chance.random() > NO_DESCRIPTION:
        sentences = [words.phrase(chance, tongue, words.choose(chance, kind.names[tongue], 0.5), elsewhere)] \
            if elsewhere or vague or chance.random() < 0.55 else []  # fmt: skip
        if says_size and chance.random() < 0.5:
            sentences.append(words.size_words(tongue, size))
        if chance.random() < 0.5:
            sentences.append(words.condition_words(chance, condition, tongue))
        description = _prose(chance, tongue, sentences, kind, years)
        unsaid: set[str] = set()
    else:
        unsaid = {value for value in elsewhere if value not in in_fields_only}
    brand_field = brand if says_brand and (brand not in title or chance.random() < 0.5) else None
    return Listing(
        title=title,
        description=description,
        brand=brand_field,
        category=_category(chance, kind),
        attributes=attributes,
        written_language=tongue,
        looks=looks,
        true_brand=brand if says_brand else "",
        true_size=size if says_size and (size in title or size in (description or "") or "size" in attributes) else "",
        text_says=(
            says[0] and look.colour not in unsaid,
            says[1] and look.pattern not in unsaid,
            says[2] and look.material not in unsaid,
        ),
    )


def _garage_sale(
    chance: np.random.Generator, kinds: list[ProductType], looks: tuple[Look, ...], tongue: str
) -> Listing:
    named = [words.noun(words.choose(chance, kind.names[tongue], 1.0))[0] for kind in kinds if chance.random() < 0.5]
    sentences = [", ".join(named)] if named else []
    return Listing(
        title=words.choose(chance, words.GARAGE[tongue]),
        description=_prose(chance, tongue, sentences, kinds[0], 0) if chance.random() < 0.8 else None,
        brand=None,
        category=None if chance.random() < 0.4 else "Home > Garage sales",
        attributes={},
        written_language=tongue,
        looks=looks,
        true_brand="",
        true_size="",
        text_says=(False, False, False),
    )


def _prose(chance: np.random.Generator, tongue: str, sentences: list[str], kind: ProductType, years: int) -> str:
    """A description: what is said about the thing, among sales talk and now and then the name of another thing."""
    written = [sentence[0].upper() + sentence[1:] + "." for sentence in sentences]
    if years > 1 and chance.random() < 0.3:
        written.append(words.age_words(chance, tongue, years))
    talk = words.FILLER[tongue]
    written += [talk[i] for i in chance.permutation(len(talk))[: int(chance.integers(1, 4))]]
    if chance.random() < 0.14:  # words of a thing that is not in this listing
        other = TYPES[int(chance.integers(len(TYPES)))]
        name = words.noun(other.names[tongue][0])[0]
        written.append(words.also(tongue, name) if chance.random() < 0.5 else words.next_to(tongue, name))
    if chance.random() < 0.4:
        written = [written[i] for i in chance.permutation(len(written))]
    return " ".join(written)


def _look(chance: np.random.Generator, kind: ProductType) -> Look:
    plain = len(kind.patterns) == 1 or chance.random() < 0.55
    pattern = "plain" if plain else words.choose(chance, kind.patterns[1:])
    return Look(TYPE_NUMBER[kind.key], words.choose(chance, kind.colours, 0.35), pattern, words.choose(chance, kind.materials, 0.5))


def _category(chance: np.random.Generator, kind: ProductType) -> str | None:
    """The category the seller picked: mostly right, sometimes a near one, a broader one or none."""
    dice = chance.random()
    if dice < 0.08:
        return None
    if dice < 0.16:
        return kind.category.rsplit(" > ", 1)[0]
    if dice < 0.21:
        return TYPES[TYPE_NUMBER[words.choose(chance, kind.near)]].category
    return kind.category


def _fair_value(kinds: list[ProductType], listing: Listing, condition: str, years: int) -> float:
    """What the thing is worth in dollars: type × condition × age × brand."""
    named = 1.25 if listing.brand else 1.0
    return sum(kind.price for kind in kinds) * CONDITION_VALUE[condition] * 0.94**years * named


def _asked(price: float) -> float:
    """A price as people write it."""
    step = 1 if price < 50 else 5 if price < 500 else 10 if price < 2000 else 50
    return float(max(1, round(price / step) * step))


def _distinct(chance: np.random.Generator, count: int) -> list[int]:
    numbers: dict[int, None] = {}
    while len(numbers) < count:
        numbers[int(chance.integers(16**10))] = None
    return list(numbers)


def _as_seen(listings: list[Listing], types: Ints, filled: Ints, photographed: Bools) -> Things:
    count = len(listings)
    seen = np.full((4, count, SLOTS), NOTHING, np.int64)
    for row, listing in enumerate(listings):
        for slot, look in enumerate(listing.looks):
            values = (COLOURS.index(look.colour), PATTERNS.index(look.pattern), MATERIALS.index(look.material))
            seen[0, row, slot] = look.type
            for plane, (value, said) in enumerate(zip(values, listing.text_says, strict=True), start=1):
                seen[plane, row, slot] = value if said or photographed[row] else NOTHING
    assert (seen[0] == np.where(np.arange(SLOTS) < filled[:, None], types, NOTHING)).all()
    brands = np.array([listing.true_brand for listing in listings], object)
    sizes = np.array([listing.true_size for listing in listings], object)
    return Things(seen[0], seen[1], seen[2], seen[3], brands, sizes)
