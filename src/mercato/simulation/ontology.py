"""What exists in the simulated market: departments, product types with their names in four languages, colours, places.

The types themselves are a table, `types.toml`. A name that contains `~` is feminine (Spanish, French), so that its
adjectives can agree with it. All brands are invented.
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from importlib import resources

LANGUAGES = ("en", "es", "fr", "de")
COLOURS = (
    "red", "blue", "green", "yellow", "black", "white", "grey", "brown", "pink", "orange", "purple", "beige",
)  # fmt: skip
PATTERNS = ("plain", "striped", "dotted", "checked", "floral")
MATERIALS = ("fabric", "wood", "metal", "leather", "plastic", "glass", "ceramic", "rattan")
CONDITIONS = ("new", "like_new", "good", "fair", "worn")

_PALETTES = {
    "any": COLOURS,
    "soft": ("grey", "beige", "blue", "green", "brown", "red", "white", "black", "pink", "yellow"),
    "wooden": ("brown", "beige", "white", "black", "grey", "green"),
    "tech": ("black", "grey", "white", "blue", "red", "pink"),
    "bright": ("red", "blue", "green", "yellow", "orange", "purple", "pink", "black", "white"),
    "warm": ("brown", "beige", "red", "orange", "black", "white"),
}
_SIZES = {
    "clothes": ("XS", "S", "M", "L", "XL"),
    "shoes": ("36", "37", "38", "39", "40", "41", "42", "43", "44"),
    "screen": ('24"', '32"', '43"', '55"', '65"'),
    "laptop": ('13"', '14"', '15"', '17"'),
    "wheel": ('16"', '20"', '24"', '26"', '28"'),
    "mattress": ("90x200", "140x200", "160x200", "180x200"),
    "storage": ("64GB", "128GB", "256GB"),
    "rug": ("80x150", "120x170", "160x230", "200x300"),
    "": (),
}
_BRANDS = {
    "Home": ("Velgrin", "Tavolin", "Hjemsund", "Brixandle", "Casarola"),
    "Electronics": ("Zentrik", "Pixorama", "Voltane", "Kyrotek", "Ampelio"),
    "Appliances": ("Glacivo", "Turbello", "Domexa", "Vaporine"),
    "Clothing": ("Lirette", "Marvano", "Stichwell", "Odalina", "Nordfaden"),
    "Shoes & bags": ("Stridonna", "Fleetra", "Pasolino", "Cordwin"),
    "Sports": ("Velocetta", "Ridgecrag", "Kondrix", "Alpivo"),
    "Kids": ("Bimbuna", "Pipkinly", "Totterby"),
    "Garden & tools": ("Grasmora", "Hortiva", "Boltrix", "Eisenhag"),
    "Music & books": ("Harmondel", "Cantabri", "Strumley"),
    "Vehicles": ("Autovane", "Rovanto", "Motrique"),
    "Pets": ("Pawlington", "Fellino"),
}


@dataclass(frozen=True)
class ProductType:
    """One kind of thing: where it sits, what it is called, what it can look like, what it costs new (US dollars)."""

    key: str
    category: str
    price: float
    names: dict[str, tuple[str, ...]]  # language → names, the commonest first
    colours: tuple[str, ...]
    patterns: tuple[str, ...]
    materials: tuple[str, ...]
    sizes: tuple[str, ...]
    near: tuple[str, ...]  # what a searcher might take instead, or a shop confuse it with
    scene: str  # where it is photographed: room, table, outdoors, street
    popularity: float

    @property
    def department(self) -> str:
        """The first step of the category path."""
        return self.category.split(" > ")[0]

    @property
    def brands(self) -> tuple[str, ...]:
        """The brands of the department."""
        return _BRANDS[self.department]


def _read_types() -> tuple[ProductType, ...]:
    """The table `types.toml` beside this file."""
    table = tomllib.loads(resources.files(__package__).joinpath("types.toml").read_text("utf-8"))
    return tuple(
        ProductType(
            key=key,
            category=row["category"],
            price=row["price"],
            names={language: tuple(row[language]) for language in LANGUAGES},
            colours=_PALETTES[row["palette"]],
            patterns=tuple(row.get("patterns", ("plain",))),
            materials=tuple(row["materials"]),
            sizes=_SIZES[row.get("sizes", "")],
            near=tuple(row["near"]),
            scene=row["scene"],
            popularity=row["popularity"],
        )
        for key, row in table.items()
    )


TYPES = _read_types()
TYPE_NUMBER = {kind.key: number for number, kind in enumerate(TYPES)}


@dataclass(frozen=True)
class Country:
    """A country of the market: its language, currency, share of the market and cities (name, latitude, longitude)."""

    code: str
    language: str
    currency: str
    dollars: float  # units of its currency for one US dollar, rounded: prices are invented anyway
    share: float
    second_language: str
    cities: tuple[tuple[str, float, float], ...]


COUNTRIES: tuple[Country, ...] = (
    Country("us", "en", "USD", 1.0, 0.36, "es", (
        ("San Francisco", 37.775, -122.419), ("New York", 40.713, -74.006), ("Austin", 30.267, -97.743),
        ("Chicago", 41.878, -87.630), ("Seattle", 47.606, -122.332))),
    Country("gb", "en", "GBP", 0.8, 0.14, "fr", (
        ("London", 51.507, -0.128), ("Manchester", 53.481, -2.242), ("Bristol", 51.455, -2.588))),
    Country("es", "es", "EUR", 0.9, 0.13, "en", (
        ("Madrid", 40.417, -3.704), ("Barcelona", 41.387, 2.170), ("Valencia", 39.470, -0.376))),
    Country("mx", "es", "MXN", 17.0, 0.13, "en", (
        ("Ciudad de México", 19.433, -99.133), ("Guadalajara", 20.660, -103.350), ("Monterrey", 25.687, -100.316))),
    Country("fr", "fr", "EUR", 0.9, 0.12, "en", (
        ("Paris", 48.857, 2.352), ("Lyon", 45.764, 4.836), ("Marseille", 43.297, 5.370))),
    Country("de", "de", "EUR", 0.9, 0.12, "en", (
        ("Berlin", 52.520, 13.405), ("Hamburg", 53.551, 9.993), ("München", 48.135, 11.582))),
)  # fmt: skip
