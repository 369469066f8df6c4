"""Values of a product as context reads them, in whatever shapes they come; what cannot be understood is missing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from typing import Any

import numpy as np

from mercato.data.coercion import parse_time
from mercato.fields import ATTRIBUTE

Product = Mapping[str, Any]

LARGEST = 1e30  # no quantity of a product is larger: it is an error, and so missing
NUMBER = re.compile(  # "20 %", "$1,200", "Rs. 499", "5,5 cm"; not "10-12" or "2 x 4"
    r"(?:[^\W\d_]{1,12}\.?)?\s*[$€£¥₹₩₽₺₫₴₦]?\s*"
    r"([-+]?(?:\d{1,3}(?:,\d{3})+(?:\.\d+)?|\d+(?:[.,]\d+)?|\.\d+)(?:[eE][-+]?\d+)?)"
    r"[^\d]{0,12}"
)


def value_of(product: Product, name: str) -> Any:
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


def number_of(value: Any) -> float:
    """A number, or one written as text ("20 %", "$1,200"); NaN for anything else."""
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


def price_of(product: Product) -> float:
    """The price; NaN where it is missing or negative."""
    price = number_of(product.get("price"))
    return price if price >= 0 else math.nan


def age_of(created_at: Any, as_of: datetime) -> float:
    """Age in seconds, negative for what is listed later; NaN where the time cannot be read."""
    if isinstance(created_at, np.datetime64):
        created_at = created_at.astype("datetime64[us]").item()
    try:
        return (as_of - parse_time(created_at)).total_seconds()
    except (ValueError, OverflowError):
        return math.nan


def image_count_of(product: Product) -> float:
    """How many images a product has, or vectors of them, whichever are more."""
    fields = (product.get(name) for name in ("images", "image_embeddings"))
    held = [len(images) for images in fields if isinstance(images, list | tuple | np.ndarray)]
    said = number_of(product.get("image_count"))
    return max(0, *held, 0 if math.isnan(said) else said)


def folded(value: Any) -> str:
    """Text without case and outer space; "" for anything else."""
    return value.strip().casefold() if isinstance(value, str) else ""


def currency_of(product: Product) -> str:
    """The currency, folded; "" where it is missing."""
    return folded(product.get("currency"))


def path_and_above(product: Product) -> list[str]:
    """The category "A > B > C", folded, then "a > b", "a" and "", which is everything."""
    parts = [name for part in folded(product.get("category")).split(">") if (name := part.strip())]
    return [" > ".join(parts[:depth]) for depth in range(len(parts), -1, -1)]
