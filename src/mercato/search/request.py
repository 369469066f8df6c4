"""The search request: what a searcher asks for, as a domain value. HTTP bodies become one in `mercato.serving`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from mercato.retrieval.expression import Filters

Mode = Literal["hybrid", "semantic", "text"]


@dataclass(frozen=True)
class Location:
    """A place on the Earth, in degrees."""

    latitude: float
    longitude: float


@dataclass(frozen=True, kw_only=True)
class SearchRequest:
    """A search, or the next page of one: the same request with the last page's cursor.

    A blank query browses what `filters` leave, newest first. `country` (ISO 3166-1 alpha-2, lower case) is the
    searcher's, and so is `location`, from which distances are measured. `mode` says which parts search: both, the
    vector or the words.
    """

    query: str = ""
    country: str | None = None
    location: Location | None = None
    filters: Filters = field(default_factory=Filters)
    mode: Mode = "hybrid"
    page_size: int = 24
    cursor: str | None = None
