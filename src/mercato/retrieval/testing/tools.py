"""What the parts of the engine contract share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

from mercato.errors import MercatoError
from mercato.retrieval.expression import Expression
from mercato.retrieval.open import build_index, open_index
from mercato.retrieval.protocol import Hit, Index, IndexRecord
from mercato.retrieval.samples import DIMENSION

EVERYTHING = 10_000  # hits
LARGE = 1_500  # records: more than any batch or list that an engine may take for the whole


@contextmanager
def holding(url: str, records: Iterable[IndexRecord] = ()) -> Iterator[Index]:
    """Open the index at `url`, built where there is none, with these records and no others; leave it empty."""
    try:
        index = open_index(url)
    except MercatoError:
        build_index(url, [], DIMENSION)
        index = open_index(url)
    with index:
        clear(index)
        index.upsert(records)
        try:
            yield index
        finally:
            clear(index)


def ids(hits: Iterable[Hit]) -> list[str]:
    """The ids of some hits."""
    return [hit.product_id for hit in hits]


@contextmanager
def refused(why: str) -> Iterator[None]:
    """The block raises a MercatoError that says `why`."""
    try:
        yield
    except MercatoError as error:
        assert why in str(error), error
    else:
        raise AssertionError(f"nothing was refused: {why}")


def day(number: int) -> datetime:
    """A day of its own for each number."""
    return datetime(2020, 1, 1, tzinfo=UTC) + timedelta(days=number)


def clear(index: Index) -> None:
    """Take everything out."""
    index.delete(ids(index.search(Expression(), EVERYTHING)))
