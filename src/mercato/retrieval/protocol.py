"""What an index is, whatever the engine: records in, hits out. `mercato.retrieval.open` chooses the engine by URL."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Literal, Protocol, Self, overload

import numpy as np
from numpy.typing import NDArray

from mercato.copying import Piece
from mercato.errors import MercatoError
from mercato.retrieval.expression import Expression, Filters, Vector, category_path, unit_vector
from mercato.retrieval.signals import NO_SIGNALS, SignalColumns, Signals, signals_of

Part = Literal["ann", "text"]


@dataclass(frozen=True, slots=True)
class Hit:
    """One product found, with both scores whichever part found it.

    `cosine` is 0 where the expression has no vector to compare with, `bm25` is above 0 exactly where the product
    shares a word with the text. `found_by` names the parts whose own candidates it was among; none in a browse.
    `exact` says that it holds every word of the text and one of them is rare (a model number); it is False where the
    expression has no vector.
    """

    product_id: str
    cosine: float
    bm25: float
    found_by: tuple[Part, ...]
    exact: bool = False


class Source(Protocol):
    """What an engine tells of the rows that it found, also after the search."""

    def product_ids(self, rows_K: NDArray[np.int64]) -> list[str]:
        """Return the ids of these products."""
        ...

    def signals(self, rows_K: NDArray[np.int64]) -> SignalColumns:
        """Return what ranking reads of these products."""
        ...

    def cosines(self, vector: Vector, rows_K: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the cosine of each of these products with a unit vector (d,): (K,)."""
        ...


_DETACHED = "these hits were detached from the index that found them"
_COLUMNS = ("cosine_H", "bm25_H", "by_ann_H", "by_text_H", "exact_H")


class Hits(Sequence[Hit]):
    """The hits of a search as columns, best first; a `Hit` is made where one is asked for, as the shown few are.

    Shapes: H hits. `cosine_H` and `bm25_H` are float64, `by_ann_H`, `by_text_H` and `exact_H` bool.
    """

    def __init__(
        self,
        source: Source,
        rows_H: NDArray[np.int64],
        *,
        cosine_H: NDArray[np.float64],
        bm25_H: NDArray[np.float64],
        by_ann_H: NDArray[np.bool_],
        by_text_H: NDArray[np.bool_],
        exact_H: NDArray[np.bool_],
    ) -> None:
        """`source` knows the products of some rows, which the engine numbers as it likes."""
        self._source, self.rows_H = source, rows_H
        self.cosine_H, self.bm25_H = cosine_H, bm25_H
        self.by_ann_H, self.by_text_H, self.exact_H = by_ann_H, by_text_H, exact_H

    def __len__(self) -> int:
        return len(self.rows_H)

    @overload
    def __getitem__(self, place: int) -> Hit: ...
    @overload
    def __getitem__(self, place: slice) -> Hits: ...
    def __getitem__(self, place: int | slice) -> Hit | Hits:
        """One hit, or some of them, still as columns."""
        if isinstance(place, slice):
            return self.take(np.arange(len(self))[place])
        (product_id,) = self._source.product_ids(self.rows_H[[place]])
        return self._hit(place, product_id)

    def __iter__(self) -> Iterator[Hit]:
        return map(self._hit, range(len(self)), self.product_ids)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def product_ids(self) -> list[str]:
        """The ids of all of them."""
        return self._source.product_ids(self.rows_H)

    def signals(self) -> SignalColumns:
        """What ranking reads of all of them; of hits that were detached nothing is left."""
        return self._source.signals(self.rows_H)

    def cosines(self, vector: Vector) -> NDArray[np.float64]:
        """The cosine of each with another unit vector (d,) than the expression's: (H,); not of detached hits either."""
        return self._source.cosines(vector, self.rows_H)

    def take(self, places_h: NDArray[np.int64]) -> Hits:
        """Some of the hits, in that order."""
        return Hits(self._source, self.rows_H[places_h], **{name: getattr(self, name)[places_h] for name in _COLUMNS})

    def detached(self) -> Hits:
        """The same hits with their ids read: they keep nothing of the index that found them."""
        names = _Names(self.product_ids)
        return Hits(names, np.arange(len(self)), **{name: getattr(self, name) for name in _COLUMNS})

    def _hit(self, place: int, product_id: str) -> Hit:
        ways: tuple[tuple[Part, bool], ...] = (("ann", self.by_ann_H[place]), ("text", self.by_text_H[place]))
        return Hit(
            product_id,
            float(self.cosine_H[place]),
            float(self.bm25_H[place]),
            tuple(part for part, found in ways if found),
            bool(self.exact_H[place]),
        )


class _Names:
    """The ids of hits and nothing else, in a quarter of the memory of a list."""

    def __init__(self, product_ids: Sequence[str]) -> None:
        ids = [product_id.encode() for product_id in product_ids]
        self._together, self._ends = b"".join(ids), np.cumsum([0, *map(len, ids)], dtype=np.uint32)

    def product_ids(self, rows_K: NDArray[np.int64]) -> list[str]:
        return [self._together[self._ends[row] : self._ends[row + 1]].decode() for row in rows_K.tolist()]

    def signals(self, rows_K: NDArray[np.int64]) -> SignalColumns:
        raise MercatoError(_DETACHED)

    def cosines(self, vector: Vector, rows_K: NDArray[np.int64]) -> NDArray[np.float64]:
        raise MercatoError(_DETACHED)


@dataclass(frozen=True, slots=True, eq=False)
class IndexRecord:
    """One product as an index holds it: its unit vector (d,), the text for BM25, and the fields that filters ask about.

    Raises a MercatoError that names the product and the field where a value cannot be indexed.
    """

    product_id: str
    vector: Vector
    title: str = ""
    description: str | None = None
    brand: str | None = None
    category: str | None = None
    price: float | None = None
    condition: str | None = None
    country: str | None = None
    seller_id: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    latitude: float | None = None
    longitude: float | None = None
    created_at: datetime | None = None
    signals: Signals = NO_SIGNALS  # what ranking reads

    def __post_init__(self) -> None:
        if not self.product_id:
            raise MercatoError("products: a product has no product_id, so it cannot be indexed")
        try:
            object.__setattr__(self, "vector", unit_vector(self.vector))
        except ValueError as error:
            raise self._wrong("vector", str(error)) from None
        for name, low, high in (("price", -math.inf, math.inf), ("latitude", -90, 90), ("longitude", -180, 180)):
            number = getattr(self, name)
            if number is not None and not (math.isfinite(number) and low <= number <= high):
                raise self._wrong(name, f"{number} is not a usable {name}")

    def check_dimension(self, dimension: int) -> None:
        """Raise a MercatoError where the vector has another dimension than the index's."""
        if len(self.vector) != dimension:
            raise self._wrong(
                "vector",
                f"{len(self.vector)} numbers, but the index's vectors have {dimension}: encode the products with the "
                "run that built the index, or build it again",
            )

    def _wrong(self, name: str, why: str) -> MercatoError:
        return MercatoError(f"product {self.product_id!r}, field {name}: {why}")

    @property
    def text(self) -> str:
        """Everything that BM25 reads, in one string."""
        return " \n ".join(filter(None, (self.title, self.description, self.brand, self.category)))


def record_from_product(product: Mapping[str, Any], vector: Vector) -> IndexRecord:
    """Make the record of one row of the products table and its vector (d,).

    `attributes` may be a mapping, pairs, or {"key", "value"} structs: a map column reads as one of these, by library.
    """
    attributes = product.get("attributes") or {}
    if not isinstance(attributes, Mapping):
        pairs = ((item["key"], item["value"]) if isinstance(item, Mapping) else item for item in attributes)
        attributes = dict(pairs)
    created_at = product.get("created_at")
    if created_at is not None and created_at.tzinfo is None:
        created_at = created_at.replace(tzinfo=UTC)
    return IndexRecord(
        product_id=product["product_id"],
        vector=vector,
        title=product.get("title") or "",
        description=product.get("description"),
        brand=product.get("brand"),
        category=category_path(product.get("category") or "") or None,
        price=product.get("price"),
        condition=product.get("condition"),
        country=product.get("country"),
        seller_id=product.get("seller_id"),
        attributes={key: value for key, value in attributes.items() if key and value},
        latitude=product.get("latitude"),
        longitude=product.get("longitude"),
        created_at=created_at,
        signals=signals_of({**product, "attributes": attributes, "created_at": created_at}),
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Capabilities:
    """What differs between engines and matters to callers, who ask here and never the class.

    `flush`: a write survives a power cut only once `flush` has returned; without it, once the write has.
    `compaction`: upserts leave products outside the index proper until `compact` takes them in.
    `one_owner`: one `Index` at a time may write to it; another attempt to open it for that raises a MercatoError.
    `text`: products are scored by BM25; without it `bm25` is 0, and an expression of text alone raises a MercatoError.
    """

    flush: bool
    compaction: bool
    one_owner: bool
    text: bool


class Index(Protocol):
    """The one face of every engine. All of it may be called from several threads at once."""

    @property
    def capabilities(self) -> Capabilities:
        """What the engine can do."""
        ...

    @property
    def dimension(self) -> int:
        """The length of its vectors."""
        ...

    @property
    def fingerprint(self) -> str:
        """What `build_index` was told about the run that made the vectors."""
        ...

    def __len__(self) -> int:
        """The number of products."""
        ...

    def search(self, expression: Expression, limit: int) -> Hits:
        """Return the candidates of `expression`, sorted by its order and then by product_id.

        Each part brings its own best `limit` products, so up to 2 · `limit` hits come back: the union is real, and the
        first `limit` of them are the best by the order; the words may be told to bring more or fewer beside a vector
        (`Expression.text_candidates`). All exact hits (ten at most) come too, before the others unless
        the order is BM25's. A browse returns `limit`.
        Raises a MercatoError for a vector of another dimension or a limit below 1.
        """
        ...

    def lookup(self, expression: Expression, product_ids: Sequence[str]) -> Hits:
        """Return these products as hits of `expression`, in the order given; what the index does not hold is left out.

        They have both scores whatever its filters and bounds, and count as found by no part. Raises as `search` does.
        """
        ...

    def count(self, filters: Filters) -> int:
        """Return how many products satisfy `filters`, exactly."""
        ...

    def upsert(self, records: Iterable[IndexRecord]) -> None:
        """Add or replace products; the next search sees all of them. All records are checked before any is written."""
        ...

    def delete(self, product_ids: Iterable[str]) -> None:
        """Take products out; those that are not there are passed over."""
        ...

    def flush(self) -> None:
        """Return once everything written so far would survive a power cut; only where `capabilities.flush`."""
        ...

    @property
    def uncompacted(self) -> int:
        """How many rows were written or lost since it was built or compacted; only where `capabilities.compaction`.

        A product that was replaced counts twice: as the row that it lost, and as its new one.
        """
        ...

    def compact(self) -> None:
        """Index what upserts have left outside, searches and writes going on; only where `capabilities.compaction`."""
        ...

    def close(self) -> None:
        """Flush and let go; a compaction under way is given up, and raises. Closing twice does nothing."""
        ...

    def __enter__(self) -> Self:
        """Return the index itself."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close it."""
        ...


@dataclass(frozen=True, slots=True)
class Generations:
    """What lies at an index's URL: the fingerprint of what is served, and of what stands by where something does."""

    served: str
    standby: str | None = None


@dataclass(frozen=True, slots=True)
class FrozenIndex:
    """What was served at one moment: copied into a folder, these files are an index of that, without a standby."""

    fingerprint: str
    files: Sequence[Piece]


class Engine(Protocol):
    """A module that `mercato.retrieval.open` loads: how one engine's indexes are opened, built and swapped."""

    def open_index(self, url: str, read_only: bool, fingerprint: str | None) -> Index:
        """See `mercato.retrieval.open.open_index`."""
        ...

    def build_index(
        self, url: str, records: Iterable[IndexRecord], dimension: int, fingerprint: str, standby: bool
    ) -> dict[str, Any]:
        """See `mercato.retrieval.open.build_index`; `dimension` is at least 1."""
        ...

    def generations(self, url: str) -> Generations:
        """See `mercato.retrieval.open.generations`."""
        ...

    def swap_index(self, url: str, fingerprint: str | None) -> None:
        """See `mercato.retrieval.open.swap_index`."""
        ...

    def drop_standby(self, url: str) -> None:
        """See `mercato.retrieval.open.drop_standby`."""
        ...

    def examine_index(self, url: str) -> list[str]:
        """See `mercato.retrieval.open.examine_index`."""
        ...

    def freeze_index(self, url: str) -> AbstractContextManager[FrozenIndex]:
        """See `mercato.retrieval.open.freeze_index`."""
        ...
