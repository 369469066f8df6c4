"""Context features (Que2Engage §2.1.2): a product's numbers, whether each is missing, and its categories.

A number is a column of the products, an attribute, or derived: the price relative to the product's kind, the listing's
age, the count of its images, the length of its texts. All statistics are fitted once, on the products that may be
learned from, and saved with the run: heavy tails get a logarithm, values are clipped to the 1st to 99th percentile (so
that a stale listing or an absurd price is no extrapolation) and standardised. What cannot be understood is missing,
never an error.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from mercato import config
from mercato.errors import MercatoError
from mercato.features.values import (
    age_of,
    currency_of,
    folded,
    image_count_of,
    number_of,
    path_and_above,
    price_of,
    value_of,
)
from mercato.fields import ATTRIBUTE, DERIVED_NUMBERS, field_of, of_kind, sources

Product = Mapping[str, Any]
Floats = NDArray[np.float64]

NUMBERS = (*of_kind("number"), *DERIVED_NUMBERS)
CATEGORIES = of_kind("category")
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
SKEWED = 1.0  # an attribute that is never negative and of at least this skewness is logarithmic too (exponential: 2)
MIN_PRICED = 5  # products of a category and currency that make a median
MIN_PRODUCTS, MIN_SHARE, MAX_VALUES = 10, 0.001, 300  # of a value of a category, to be one of its own; values kept


class Number(NamedTuple):
    """Transform of one number: (clip(log(1 + x / unit), low, high) - mean) / std; no logarithm at unit 0."""

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
    """The fitted transforms of a run's context. F numbers, K categories; see the module."""

    numbers: tuple[Number, ...]
    categories: tuple[Category, ...]
    medians: tuple[Median, ...] = ()
    currency: str = ""  # of a price that names none: the commonest

    @classmethod
    def fit(cls, context: config.Context, products: Sequence[Product], as_of: datetime) -> Self:
        """Fit on what may be learned from; a column that the market lacks altogether is then simply always missing.

        Args:
            context: what the recipe declares.
            products: rows of the products schema, keys may be absent.
            as_of: the moment at which listings have their age; those from after it say nothing about age.

        Raises:
            MercatoError: the recipe names a number or category that does not exist.
        """
        _check("numbers", context.numbers, NUMBERS)
        _check("categories", context.categories, CATEGORIES)
        priced = {"price", "relative_price"} & set(context.numbers)
        currency, medians = _medians(products) if priced else ("", ())
        spec = cls(
            tuple(Number(name, LOGARITHMIC.get(name, 0.0)) for name in context.numbers),
            tuple(_fit_category(name, products) for name in context.categories),
            medians,
            currency,
        )
        raw_BF = spec._raw(products, as_of)
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
        """Which numbers and which categories are made of a field of products, by place; `attributes` is all of them."""
        return (
            [place for place, number in enumerate(self.numbers) if _is_made_of(number.name, field)],
            [place for place, category in enumerate(self.categories) if _is_made_of(category.name, field)],
        )

    def drop(self, features: dict[str, NDArray[Any]], fields: Sequence[str], rows_B: NDArray[np.bool_] | slice) -> None:
        """Drop fields from some rows of what `features` returned, in place, as if those products lacked them.

        Raises:
            MercatoError: a price's currency alone is to be dropped, and the price was already standardised by it.
        """
        priced = [number.name for number in self.numbers if _is_made_of(number.name, "price")]
        if "currency" in fields and any(not {*sources(name)} & {*fields} for name in priced):
            raise MercatoError("cannot drop 'currency' from the context without 'price', which was read by it")
        nothing = self.features([{}], datetime.min)
        for field in fields:
            numbers, categories = self.read_from(field)
            columns = [*numbers, *(len(self.numbers) + place for place in numbers)]  # each with its indicator
            for name, places in (("context_numbers", columns), ("context_categories", categories)):
                for place in places:
                    features[name][rows_B, place] = nothing[name][0, place]

    def features(self, products: Sequence[Product], as_of: datetime) -> dict[str, NDArray[Any]]:
        """Products as the context encoder reads them at the moment `as_of`.

        Returns:
            `context_numbers` (B, 2F) float32: the transformed numbers, 0 where missing, then 1 for each that is;
            `context_categories` (B, K) int64: 0 = unknown or missing.
        """
        ids_KB = [
            [_id(index, category.name, product) for product in products]
            for category, index in zip(self.categories, self._indices, strict=True)
        ]
        return {
            "context_numbers": _transformed(self._raw(products, as_of), self._table),
            "context_categories": np.array(ids_KB, np.int64).reshape(len(self.categories), len(products)).T.copy(),
        }

    def ages(self, seconds_N: NDArray[np.floating[Any]]) -> NDArray[np.float32]:
        """Ages as `features` standardises them: seconds (N,), NaN where unknown → (N, 2), age and missing indicator.

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

    def _raw(self, products: Sequence[Product], as_of: datetime) -> Floats:
        """Numbers in their own units, NaN where missing, (B, F)."""
        as_of = as_of.replace(tzinfo=UTC) if as_of.tzinfo is None else as_of
        columns = [self._column(number.name, products, as_of) for number in self.numbers]
        return np.array(columns, np.float64).reshape(len(columns), len(products)).T

    def _column(self, name: str, products: Sequence[Product], as_of: datetime) -> list[float]:
        if name == "price":
            return [self._price_ratio(product, ("",)) for product in products]
        if name == "relative_price":
            paths = map(path_and_above, products)  # without a category there is nothing to be relative to
            return [
                self._price_ratio(own, path if len(path) > 1 else ()) for own, path in zip(products, paths, strict=True)
            ]
        if name == "age":
            return [age_of(product.get("created_at"), as_of) for product in products]
        if name == "image_count":
            return [image_count_of(product) for product in products]
        if name in ("title_length", "description_length"):
            field = name.removesuffix("_length")
            return [len(text) if isinstance(text := product.get(field), str) else 0 for product in products]
        return [number_of(value_of(product, name)) for product in products]

    def _price_ratio(self, product: Product, paths: Iterable[str]) -> float:
        """The price over the median of the first of these groups that has one."""
        price = price_of(product)
        if not math.isnan(price):
            currency = currency_of(product) or self.currency
            for path in paths:
                median = self._price_of.get((path, currency))
                if median is not None:
                    return price / median
        return math.nan


def columns_of(context: config.Context) -> set[str]:
    """All columns of products that a context is made of, a price's currency among them; images go by `images`."""
    read = {field_of(field).name for name in (*context.numbers, *context.categories) for field in sources(name)}
    return read | {"currency"} if "price" in read else read


def _is_made_of(name: str, field: str) -> bool:
    """Whether a number or category is made of a field; of `attributes` every attribute is."""
    return any(field in (source, field_of(source).name) for source in sources(name))


def _transformed(raw_BF: Floats, table_5F: Floats) -> NDArray[np.float32]:
    """Numbers in their own units → standardised, then their missing indicators, (B, 2F)."""
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
            counts.update(path for path in path_and_above(product) if path)
        elif value := folded(value_of(product, name)):
            counts[value] += 1
    least = max(MIN_PRODUCTS, MIN_SHARE * len(products))
    common = sorted((value for value in counts if counts[value] >= least), key=lambda value: (-counts[value], value))
    return Category(name, tuple(common[:MAX_VALUES]))


def _medians(products: Sequence[Product]) -> tuple[str, tuple[Median, ...]]:
    """The commonest currency, and the median price of every path and currency; gifts do not count."""
    known = Counter(filter(None, map(currency_of, products)))
    commonest = max(known, key=lambda name: (known[name], name), default="")
    groups: defaultdict[tuple[str, str], list[float]] = defaultdict(list)
    for product in products:
        price = price_of(product)
        if price > 0:
            for path in path_and_above(product):
                groups[path, currency_of(product) or commonest].append(price)
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


def _id(index: Mapping[str, int], name: str, product: Product) -> int:
    if name == "category":
        return next((index[path] for path in path_and_above(product) if path in index), 0)
    return index.get(folded(value_of(product, name)), 0)
