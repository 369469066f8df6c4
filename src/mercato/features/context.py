"""What Que2Engage's context encoder reads of a product (§2.1.2): numbers, whether each is missing, and categories.

A number is a column of the products, an attribute, or derived: the price relative to the product's kind, the listing's
age, the count of its photos, the length of its texts. All statistics are fitted once, on the catalogue, and saved with
the run: heavy tails get a logarithm, values are clipped to the 1st to 99th percentile (so that a stale listing or an
absurd price is no extrapolation) and standardised. What cannot be understood is missing, never an error.
"""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mercato import config
from mercato.data.coercion import parse_time
from mercato.errors import MercatoError

Product = Mapping[str, Any]
Floats = NDArray[np.float64]

ATTRIBUTE = "attributes."
COLUMNS = ("seller_rating", "rating", "latitude", "longitude")  # numbers as they are
CATEGORIES = ("brand", "category", "condition", "country", "currency", "language", "seller_id")
DAY = 86_400.0  # seconds
TRIFLE = 0.01  # of the typical value: smaller differences do not count, so that nothing at all is not infinitely far
LOGARITHMIC = {  # number: u in log(1 + x / u)
    "price": TRIFLE,  # x: over the median of its currency
    "relative_price": TRIFLE,  # x: over the median of its category and currency
    "age": DAY,
    "image_count": 1.0,
    "title_length": 1.0,
    "description_length": 1.0,
}
MADE_OF = {  # the columns that a derived number is made of; a price goes with its currency
    "relative_price": ("price", "category"),
    "age": ("created_at",),
    "image_count": ("images",),
    "title_length": ("title",),
    "description_length": ("description",),
}
SKEWED = 1.0  # an attribute that is never negative and of at least this skewness is logarithmic too (exponential: 2)
LARGEST = 1e30  # no quantity of a product is larger: it is an error, and so missing
MIN_PRICED = 5  # products of a category and currency that make a median
MIN_PRODUCTS, MIN_SHARE, MAX_VALUES = 10, 0.001, 300  # of a value of a category, to be one of its own; values kept
NUMBER = re.compile(  # "20 %", "$1,200", "Rs. 499", "5,5 cm"; not "10-12" or "2 x 4"
    r"(?:[^\W\d_]{1,12}\.?)?\s*[$€£¥₹₩₽₺₫₴₦]?\s*"
    r"([-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)(?:[eE][-+]?\d+)?)"
    r"[^\d]{0,12}"
)


class Number(NamedTuple):
    """How one number is told: (clip(log(1 + x / unit), low, high) - mean) / std; without the logarithm at unit 0."""

    name: str
    unit: float = 0.0
    low: float = 0.0
    high: float = 0.0
    mean: float = 0.0
    std: float = 1.0


class Category(NamedTuple):
    """The values of a category that have an id of their own, folded; the id is the place + 1, 0 any other."""

    name: str
    values: tuple[str, ...] = ()


class Median(NamedTuple):
    """The median price of a category path, folded ("" = of all), in a currency."""

    path: str
    currency: str
    price: float


@dataclass(frozen=True)
class ContextSpec:
    """The fitted transforms of a run's context. F numbers, G categories; see the module."""

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    medians: tuple[Median, ...] = ()
    currency: str = ""  # of a price that names none: the commonest

    @classmethod
    def fit(cls, context: config.Context, products: Sequence[Product], now: datetime) -> Self:
        """Fit on a catalogue; a column that the market lacks altogether is then simply always missing.

        Args:
            context: what the recipe declares.
            products: rows of the products schema, keys may be absent.
            now: the moment at which ages are told; listings from after it say nothing about age.

        Raises:
            MercatoError: the recipe names a number or category that does not exist.
        """
        _check("numbers", context.numbers, (*COLUMNS, *LOGARITHMIC))
        _check("categories", context.categories, CATEGORIES)
        priced = {"price", "relative_price"} & set(context.numbers)
        currency, medians = _medians(products) if priced else ("", ())
        spec = cls(
            tuple(Number(name, LOGARITHMIC.get(name, 0.0)) for name in context.numbers),
            tuple(_fit_category(name, products) for name in context.categories),
            medians,
            currency,
        )
        raw_BF = spec._raw(products, now)
        return replace(spec, numbers=tuple(map(_fit_number, spec.numbers, raw_BF.T)))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """What `dataclasses.asdict` and JSON made of a spec → the spec."""
        return cls(
            tuple(Number(*row) for row in fields["numbers"]),
            tuple(Category(name, tuple(values)) for name, values in fields["categories"]),
            tuple(Median(*row) for row in fields["medians"]),
            fields["currency"],
        )

    @property
    def width(self) -> int:
        """Length of `context_numbers`: 2F."""
        return 2 * len(self.numbers)

    @property
    def sizes(self) -> tuple[int, ...]:
        """Classes of each category, the unknown included."""
        return tuple(1 + len(category.values) for category in self.categories)

    @property
    def age_columns(self) -> tuple[int, int] | None:
        """Where `context_numbers` has the age and its missing indicator; None where the context has no age."""
        names = [number.name for number in self.numbers]
        return (names.index("age"), len(names) + names.index("age")) if "age" in names else None

    def read_from(self, field: str) -> tuple[list[int], list[int]]:
        """Which numbers and which categories are made of this column of products, by place ("images": the photos)."""
        return (
            [place for place, number in enumerate(self.numbers) if field in fields_of(number.name)],
            [place for place, category in enumerate(self.categories) if field in fields_of(category.name)],
        )

    def features(self, products: Sequence[Product], now: datetime) -> dict[str, NDArray[Any]]:
        """Products as the context encoder reads them at the moment `now`.

        Returns:
            `context_numbers` (B, 2F) float32: the transformed numbers, 0 where missing, then 1 for each that is;
            `context_categories` (B, G) int64: 0 = unknown or missing.
        """
        ids_GB = [
            [_id(index, category.name, product) for product in products]
            for category, index in zip(self.categories, self._indices, strict=True)
        ]
        return {
            "context_numbers": _transformed(self._raw(products, now), self._table),
            "context_categories": np.array(ids_GB, np.int64).reshape(len(self.categories), len(products)).T.copy(),
        }

    def ages(self, seconds_N: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Ages as `features` would tell them: seconds (N,), NaN where unknown → (N, 2), age and missing indicator.

        Raises:
            ValueError: the context has no age.
        """
        if self.age_columns is None:
            raise ValueError("the context has no age")
        column = self.age_columns[0]
        return _transformed(np.asarray(seconds_N, np.float64)[:, None], self._table[:, column : column + 1])

    @cached_property
    def _table(self) -> Floats:
        """The numbers' unit, low, high, mean and std, (5, F)."""
        return np.array([number[1:] for number in self.numbers], np.float64).reshape(-1, 5).T

    @cached_property
    def _indices(self) -> tuple[dict[str, int], ...]:
        return tuple({value: i + 1 for i, value in enumerate(category.values)} for category in self.categories)

    @cached_property
    def _price_of(self) -> dict[tuple[str, str], float]:
        return {(path, currency): price for path, currency, price in self.medians}

    def _raw(self, products: Sequence[Product], now: datetime) -> Floats:
        """Numbers in their own units, NaN where missing, (B, F)."""
        now = now.replace(tzinfo=UTC) if now.tzinfo is None else now
        columns = [self._column(number.name, products, now) for number in self.numbers]
        return np.array(columns, np.float64).reshape(len(columns), len(products)).T

    def _column(self, name: str, products: Sequence[Product], now: datetime) -> list[float]:
        if name == "price":
            return [self._price_ratio(product, ("",)) for product in products]
        if name == "relative_price":
            paths = map(_path_and_above, products)  # without a category there is nothing to be relative to
            return [
                self._price_ratio(own, path if len(path) > 1 else ()) for own, path in zip(products, paths, strict=True)
            ]
        if name == "age":
            return [_age(product.get("created_at"), now) for product in products]
        if name == "image_count":
            return [_image_count(product) for product in products]
        if name in ("title_length", "description_length"):
            field = name.removesuffix("_length")
            return [len(text) if isinstance(text := product.get(field), str) else 0 for product in products]
        return [_number(_value(product, name)) for product in products]

    def _price_ratio(self, product: Product, paths: Iterable[str]) -> float:
        """The price over the median of the first of these groups that has one."""
        price = _price(product)
        if not math.isnan(price):
            currency = _currency(product) or self.currency
            for path in paths:
                median = self._price_of.get((path, currency))
                if median is not None:
                    return price / median
        return math.nan


def fields_of(name: str) -> tuple[str, ...]:
    """The columns of products that a number or category is made of; photos go by `images`."""
    return MADE_OF.get(name, (name.split(".")[0],))


def columns_of(context: config.Context) -> set[str]:
    """All columns of products that a context is made of, a price's currency among them; photos go by `images`."""
    named = {field for name in (*context.numbers, *context.categories) for field in fields_of(name)}
    return named | {"currency"} if "price" in named else named


def _transformed(raw_BF: Floats, table_5F: Floats) -> NDArray[np.float32]:
    """Numbers in their own units → told, then their missing indicators, (B, 2F)."""
    missing_BF = ~np.isfinite(raw_BF)
    unit_F, low_F, high_F, mean_F, std_F = table_5F
    standardised_BF = (np.minimum(np.maximum(_scaled(raw_BF, unit_F), low_F), high_F) - mean_F) / std_F
    standardised_BF[missing_BF] = 0
    return np.concatenate([standardised_BF, missing_BF], 1, dtype=np.float32)


def _scaled(raw: Floats, unit: Floats) -> Floats:
    """log(1 + x / unit), x at least 0; x itself where the unit is 0."""
    return np.where(unit > 0, np.log1p(np.maximum(raw, 0) / np.where(unit > 0, unit, 1)), raw)


def _fit_number(number: Number, raw_B: Floats) -> Number:
    raw_B = raw_B[np.isfinite(raw_B)]
    if number.name == "age":
        raw_B = raw_B[raw_B >= 0]
    if not len(raw_B):
        return number
    unit = number.unit
    if number.name.startswith(ATTRIBUTE) and _is_skewed(raw_B):
        unit = TRIFLE * float(np.median(raw_B[raw_B > 0]))
    scaled_B = _scaled(raw_B, np.array(unit))
    low, high = (float(bound) for bound in np.percentile(scaled_B, (1, 99)))
    clipped_B = scaled_B.clip(low, high)
    if low == high:  # a constant tells nothing, and a value that differs from it was never learned
        return number._replace(unit=unit, low=low, high=high, mean=low)
    return number._replace(unit=unit, low=low, high=high, mean=float(clipped_B.mean()), std=float(clipped_B.std()) or 1)


def _is_skewed(values: Floats) -> bool:
    if values.min() < 0 or values.min() == values.max():
        return False
    centred = values / values.max()
    centred -= centred.mean()
    return bool((centred**3).mean() >= SKEWED * (centred**2).mean() ** 1.5)


def _fit_category(name: str, products: Sequence[Product]) -> Category:
    counts: Counter[str] = Counter()
    for product in products:
        if name == "category":  # a product counts for every path above its own, which stands in for it where it is rare
            counts.update(path for path in _path_and_above(product) if path)
        elif folded := _folded(_value(product, name)):
            counts[folded] += 1
    least = max(MIN_PRODUCTS, MIN_SHARE * len(products))
    common = sorted((value for value in counts if counts[value] >= least), key=lambda value: (-counts[value], value))
    return Category(name, tuple(common[:MAX_VALUES]))


def _medians(products: Sequence[Product]) -> tuple[str, tuple[Median, ...]]:
    """The commonest currency, and the median price of every path and currency; gifts do not count."""
    known = Counter(filter(None, map(_currency, products)))
    commonest = max(known, key=lambda name: (known[name], name), default="")
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for product in products:
        price = _price(product)
        if price > 0:
            for path in _path_and_above(product):
                groups[path, _currency(product) or commonest].append(price)
    medians = (
        Median(path, currency, float(np.median(prices)))
        for (path, currency), prices in sorted(groups.items())
        if len(prices) >= MIN_PRICED or not path
    )
    return commonest, tuple(medians)


def _check(field: str, names: Sequence[str], allowed: Sequence[str]) -> None:
    for name in names:
        if name not in allowed and not (name.startswith(ATTRIBUTE) and len(name) > len(ATTRIBUTE)):
            raise MercatoError(
                f"product_tower.context.{field}: {name!r} is none; there are {', '.join(sorted(allowed))}, "
                f"and any attribute as {ATTRIBUTE}NAME"
            )


def _value(product: Product, name: str) -> Any:
    """A column's value, or an attribute's: these come as a mapping, as pairs or as {key, value}, by library."""
    if not name.startswith(ATTRIBUTE):
        return product.get(name)
    attributes, wanted = product.get("attributes"), name.removeprefix(ATTRIBUTE)
    if isinstance(attributes, Mapping):
        return attributes.get(wanted)
    for item in attributes if isinstance(attributes, list | tuple) else ():
        match item:
            case {"key": key, "value": value} | (key, value) if key == wanted:
                return value
    return None


def _number(value: Any) -> float:
    if isinstance(value, str):
        match = NUMBER.fullmatch(value.strip()) if len(value) <= 40 else None
        if match is None:
            return math.nan
        text = match[1]
        decimal_comma = text.count(",") == 1 and "." not in text and not re.search(r",\d{3}$", text)
        value = float(text.replace(",", "." if decimal_comma else ""))
    elif isinstance(value, bool) or not isinstance(value, int | float | Decimal | np.integer | np.floating):
        return math.nan
    try:
        number = float(value)
    except (ValueError, TypeError, OverflowError):
        return math.nan
    return number if abs(number) <= LARGEST else math.nan


def _price(product: Product) -> float:
    price = _number(product.get("price"))
    return price if price >= 0 else math.nan


def _age(created_at: Any, now: datetime) -> float:
    """Seconds; negative for what is listed later."""
    if isinstance(created_at, np.datetime64):
        created_at = created_at.astype("datetime64[us]").item()
    try:
        return (now - parse_time(created_at)).total_seconds()
    except (ValueError, OverflowError):
        return math.nan


def _image_count(product: Product) -> float:
    count = product.get("image_count")
    if count is not None:
        return max(_number(count), 0)
    for field in ("images", "image_embeddings"):
        images = product.get(field)
        if isinstance(images, list | tuple | np.ndarray) and len(images):
            return len(images)
    return 0


def _folded(value: Any) -> str:
    return value.strip().casefold() if isinstance(value, str) else ""


def _currency(product: Product) -> str:
    return _folded(product.get("currency"))


def _path_and_above(product: Product) -> list[str]:
    """The category "A > B > C", folded, then "a > b", "a" and "", which is everything."""
    parts = [name for part in _folded(product.get("category")).split(">") if (name := part.strip())]
    return [" > ".join(parts[:depth]) for depth in range(len(parts), -1, -1)]


def _id(index: Mapping[str, int], name: str, product: Product) -> int:
    if name == "category":
        return next((index[path] for path in _path_and_above(product) if path in index), 0)
    return index.get(_folded(_value(product, name)), 0)
