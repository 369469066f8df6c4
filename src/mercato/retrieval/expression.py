"""The query expression (ANN ∨ text) ∧ filters, as small frozen values that go to JSON and back.

The shape is that of Unicorn in Que2Search §6.2: approximate nearest neighbours and tokens stand under an OR, the
constraints under an AND. `ef_search` and `min_cosine` are its two levers of §6.3: how much of the index is looked at,
and how near a product must be. `text_candidates` is a third: how many the tokens bring beside the neighbours.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    PlainSerializer,
    PlainValidator,
    StringConstraints,
    field_validator,
    model_validator,
)

DEFAULT_EF_SEARCH = 128

Vector = NDArray[np.float32]


def unit_vector(value: Any) -> Vector:
    """Return `value` as a float32 (d,) array of unit length; a ValueError says why it cannot be one."""
    vector = np.asarray(value, dtype=np.float64)
    if vector.ndim != 1 or vector.size == 0:
        raise ValueError(f"a vector has one axis and at least one number; this one has shape {vector.shape}")
    norm = float(np.linalg.norm(vector))
    if not np.isfinite(norm):
        raise ValueError("the vector has NaN or infinite numbers in it")
    if norm == 0:
        raise ValueError("the vector is all zeros, so it points nowhere")
    if abs(norm - 1) > 1e-6:  # one that is already of unit length keeps its bits
        vector = vector / norm
    return vector.astype(np.float32)


def category_path(text: str) -> str:
    """Write a category path one way: "A>B >  C" becomes "A > B > C"."""
    return " > ".join(part for part in (part.strip() for part in text.split(">")) if part)


def _category(text: str) -> str:
    path = category_path(text)
    if not path:
        raise ValueError("a category needs at least one name")
    return path


Word = Annotated[str, StringConstraints(min_length=1)]
Category = Annotated[str, AfterValidator(_category)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Country = Annotated[str, StringConstraints(strip_whitespace=True, to_lower=True, min_length=2, max_length=2)]
JsonVector = Annotated[
    Vector | None,
    PlainValidator(
        lambda value: None if value is None else unit_vector(value), json_schema_input_type=list[float] | None
    ),
    PlainSerializer(lambda value: None if value is None else value.tolist(), return_type=list[float] | None),
]


class _Value(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class GeoRadius(_Value):
    """A circle on the Earth: degrees, and a radius in kilometres along the surface."""

    latitude: float = Field(ge=-90, le=90, allow_inf_nan=False)
    longitude: float = Field(ge=-180, le=180, allow_inf_nan=False)
    radius_km: float = Field(gt=0, allow_inf_nan=False)


class Filters(_Value):
    """What every hit must satisfy; an absent part asks nothing, and a product without the field never satisfies it.

    `category` takes its whole subtree ("A > B" is met by "A > B" and "A > B > C"); the price bounds are inclusive, in
    the market's currency; of `conditions` any one is enough; all `attributes` must be there, compared without case.
    """

    category: Category | None = None
    price_min: Price | None = None
    price_max: Price | None = None
    conditions: tuple[Word, ...] = ()
    country: Country | None = None
    seller_id: Word | None = None
    attributes: dict[Word, Word] = Field(default_factory=dict)
    near: GeoRadius | None = None

    @field_validator("conditions")
    @classmethod
    def _each_once(cls, conditions: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(sorted(set(conditions)))

    @field_validator("attributes")
    @classmethod
    def _each_pair_once(cls, attributes: dict[str, str]) -> dict[str, str]:
        """Filters that mean the same are the same; a key of several values keeps as many of its spellings."""
        spellings: dict[str, list[str]] = {}
        for key in sorted(attributes):
            spellings.setdefault(key.casefold(), []).append(key)
        once: dict[str, str] = {}
        for folded, keys in sorted(spellings.items()):
            values = sorted({attributes[key].casefold() for key in keys})
            once |= zip([folded] if len(values) == 1 else keys, values, strict=False)
        return once

    @model_validator(mode="after")
    def _ordered(self) -> Filters:
        if self.price_min is not None and self.price_max is not None and self.price_min > self.price_max:
            raise ValueError(f"price_min {self.price_min:g} is above price_max {self.price_max:g}")
        return self


class Expression(_Value):
    """(ANN ∨ text) ∧ filters; either part may be absent, and with neither it is a browse, newest product first.

    `vector` is brought to unit length and kept as float32 (d,). `min_cosine` is the least that the ANN part accepts
    (the text part is free of it). `ef_search` is the width of the graph search (HNSW's ef). The tokens of `text` are
    OR-ed; a blank text is an absent one. Beside a vector the text part brings its best `text_candidates` (None: as many
    as are asked for); alone it brings what is asked for. `order` names the score that sorts the hits, the other
    one breaking ties, so that without a vector the order is BM25's either way.
    """

    vector: JsonVector = None
    min_cosine: float | None = Field(default=None, ge=-1, le=1, allow_inf_nan=False)
    ef_search: int = Field(default=DEFAULT_EF_SEARCH, ge=1, le=10_000)
    text: str | None = None
    text_candidates: int | None = Field(default=None, ge=0)
    filters: Filters = Filters()
    order: Literal["cosine", "bm25"] = "cosine"

    @model_validator(mode="before")
    @classmethod
    def _blank_text_is_absent(cls, values: Any) -> Any:
        if isinstance(values, dict) and isinstance(values.get("text"), str) and not values["text"].strip():
            return {**values, "text": None}
        return values

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.model_dump() == other.model_dump()

    def __hash__(self) -> int:
        return hash(self.model_dump_json())
