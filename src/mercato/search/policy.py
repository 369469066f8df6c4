"""The retrieval policy: how hard the index is searched for each page (Que2Search §6.3, §6.4)."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Self

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError

from mercato.errors import MercatoError
from mercato.runs.folder import RETRIEVAL, load_min_cosine, load_retrieval

MOST = 10_000  # that any of these may be
_PLAIN = 100_000  # products up to which the usual efforts are as they are


@dataclass(frozen=True, kw_only=True)
class Effort:
    """How hard the index is searched for one page."""

    __pydantic_config__ = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)  # where a run's are read

    ef_search: Annotated[int, Field(ge=1, le=MOST)]  # HNSW's
    candidates: Annotated[int, Field(ge=1, le=MOST)]  # that the vector brings, and the words where nothing else is said
    text_candidates: Annotated[int, Field(ge=0, le=MOST)] | None = None  # that the words bring beside a vector
    min_cosine: Annotated[float, Field(ge=-1, le=1)] | None = None  # the least of a hit found by its vector

    @property
    def of_words(self) -> int:
        """How many the words bring beside a vector."""
        return self.candidates if self.text_candidates is None else self.text_candidates

    def digs_deeper_than(self, other: Effort) -> bool:
        """Whether it may find what the other has not."""
        more = self.candidates > other.candidates or self.of_words > other.of_words
        return more or self.min_cosine != other.min_cosine


@dataclass(frozen=True, kw_only=True)
class RetrievalPolicy:
    """Efforts by page: the first page is cheap, later pages, which few ask for, dig deeper."""

    pages: tuple[Effort, ...] = (
        Effort(ef_search=192, candidates=100),
        Effort(ef_search=256, candidates=300),
        Effort(ef_search=256, candidates=1000),
    )  # of the first page, the second, …; the last is that of all pages after it too
    deepest: int = 1000  # no search shows more products than this

    def effort(self, page: int) -> Effort:
        """The effort for a page, counted from 0."""
        return self.pages[min(page, len(self.pages) - 1)]

    @classmethod
    def usual(cls, products: int, min_cosine: float | None) -> Self:
        """What nobody has tuned, over an index of so many products.

        As much is found in a larger index only where more of it is looked at: `ef_search`, by which rows within filters
        are looked at too, grows with the root of what is above 100,000 products.
        """
        times = max(1.0, math.sqrt(products / _PLAIN))
        pages = [replace(each, ef_search=min(MOST, round(times * each.ef_search))) for each in cls().pages]
        return cls(pages=tuple(replace(each, min_cosine=min_cosine) for each in pages))

    @classmethod
    def of_run(cls, run: Path, products: int) -> Self:
        """What `retrieval.json` of a run says: its `pages` where it has some, else the usual ones at its `min_cosine`.

        `products` is how many the run's index holds.

        Raises:
            MercatoError: it cannot be read, its `min_cosine` is no cosine, or its pages are no list of efforts; the
                message has the page's number, from 0, and the field.
        """
        stored = load_retrieval(run)
        if "pages" not in stored:
            return cls.usual(products, load_min_cosine(run))
        try:
            return cls(pages=_PAGES.validate_json(json.dumps(stored["pages"])))
        except ValidationError as error:
            wrong = error.errors()[0]
            place = ".".join(map(str, ("pages", *wrong["loc"])))
            raise MercatoError(f"{run / RETRIEVAL}: {place}: {wrong['msg']}") from None


_PAGES = TypeAdapter(Annotated[tuple[Effort, ...], Field(min_length=1)])
