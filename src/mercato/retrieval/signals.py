"""What an index keeps of a product for ranking, beside what it searches: numbers, keys and words.

An engine keeps them by row and tells nothing of what they mean; features of a query and a product are made of them in
`mercato.ranking.features`, of all hits of a search at once.

Shapes: H hits, N numbers, K keys, S sections, W words of all hits.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self
from unicodedata import digit
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from mercato.data.hashing import hash64
from mercato.data.words import words
from mercato.features.values import currency_of, folded, image_count_of, number_of, path_and_above, price_of

NUMBERS = ("price", "created", "latitude", "longitude", "seller_rating", "rating", "images", "missing")
KEYS = ("product_id", "seller_id", "category", "department", "condition", "currency")
SECTIONS = ("title", "description", "brand", "category", "attributes", "trigrams")  # the last are the title's
OFTEN_GIVEN = ("description", "brand", "category", "price", "condition", "attributes", "latitude")  # `missing` counts

MOST_WORDS = 64  # of a section, from its beginning
MOST_TRIGRAMS = 256  # of a title, from its beginning
_DIGIT = 1 << 31  # set in the hash of a word that holds a digit


@dataclass(frozen=True, slots=True, eq=False)
class Signals:
    """One product's: numbers (N,) float32, NaN where unknown; keys (K,) uint64, 0 where unknown; and the words of its
    sections end to end, uint32 (W,), with the end of each, uint16 (S,).
    """

    numbers_N: NDArray[np.float32]
    keys_K: NDArray[np.uint64]
    words_W: NDArray[np.uint32]
    ends_S: NDArray[np.uint16]

    def packed(self) -> bytes:
        """As bytes."""
        return b"".join(part.tobytes() for part in (self.numbers_N, self.keys_K, self.ends_S, self.words_W))

    @classmethod
    def unpacked(cls, content: bytes) -> Self:
        """What `packed` made."""
        keys = 4 * len(NUMBERS)
        ends = keys + 8 * len(KEYS)
        held = ends + 2 * len(SECTIONS)
        return cls(
            np.frombuffer(content, np.float32, len(NUMBERS)),
            np.frombuffer(content, np.uint64, len(KEYS), keys),
            np.frombuffer(content, np.uint32, -1, held),
            np.frombuffer(content, np.uint16, len(SECTIONS), ends),
        )


NO_SIGNALS = Signals(
    np.full(len(NUMBERS), np.nan, np.float32),
    np.zeros(len(KEYS), np.uint64),
    np.zeros(0, np.uint32),
    np.zeros(len(SECTIONS), np.uint16),
)


@dataclass(frozen=True, slots=True, eq=False)
class SignalColumns:
    """Those of H products: numbers (H, N), keys (H, K), the words of all end to end (W,), and how many of them are of
    each product's sections (H, S).
    """

    numbers_HN: NDArray[np.float32]
    keys_HK: NDArray[np.uint64]
    words_W: NDArray[np.uint32]
    lengths_HS: NDArray[np.int64]

    @classmethod
    def joined(cls, parts: Sequence[SignalColumns], order_H: NDArray[np.int64]) -> SignalColumns:
        """Several one after the other, the product at place i being put at place `order_H[i]`."""
        whole = cls(*(np.concatenate(columns) for columns in zip(*map(_columns, parts), strict=True)))
        return whole.take(np.argsort(order_H, kind="stable"))

    def take(self, places_h: NDArray[np.int64]) -> SignalColumns:
        """Those of some of the products, in that order."""
        lengths_H = self.lengths_HS.sum(axis=1)
        starts_h, lengths_h = (lengths_H.cumsum() - lengths_H)[places_h], lengths_H[places_h]
        words_w = self.words_W[spans(starts_h, lengths_h)]
        return SignalColumns(self.numbers_HN[places_h], self.keys_HK[places_h], words_w, self.lengths_HS[places_h])

    def apart(self) -> Iterator[Signals]:
        """Each product's."""
        ends_H = self.lengths_HS.sum(axis=1).cumsum()
        ends_HS = self.lengths_HS.cumsum(axis=1).astype(np.uint16)
        yield from map(Signals, self.numbers_HN, self.keys_HK, np.split(self.words_W, ends_H)[:-1], ends_HS)

    def number(self, name: str) -> NDArray[np.float32]:
        """A number of each product, (H,)."""
        values_H: NDArray[np.float32] = self.numbers_HN[:, NUMBERS.index(name)]
        return values_H

    def key(self, name: str) -> NDArray[np.uint64]:
        """A key of each product, (H,)."""
        keys_H: NDArray[np.uint64] = self.keys_HK[:, KEYS.index(name)]
        return keys_H


def _columns(part: SignalColumns) -> tuple[NDArray[Any], ...]:
    return part.numbers_HN, part.keys_HK, part.words_W, part.lengths_HS


def spans(starts_K: NDArray[np.int64], lengths_K: NDArray[np.int64]) -> NDArray[np.int64]:
    """The numbers from each start on, so many of each, end to end."""
    before_K = lengths_K.cumsum() - lengths_K
    found: NDArray[np.int64] = np.arange(lengths_K.sum()) + np.repeat(starts_K - before_K, lengths_K)
    return found


def signals_of(product: Mapping[str, Any]) -> Signals:
    """The signals of a row of the products table; what cannot be understood is missing."""
    created_at = product.get("created_at")
    path = path_and_above(product)
    numbers = {
        "price": price_of(product),
        "created": created_at.timestamp() if created_at is not None else math.nan,
        "images": image_count_of(product),
        "missing": sum(product.get(name) in (None, "", {}) for name in OFTEN_GIVEN),
        **{name: number_of(product.get(name)) for name in ("latitude", "longitude", "seller_rating", "rating")},
    }
    keys = {
        "product_id": product["product_id"],
        "seller_id": product.get("seller_id"),
        "category": path[0],
        "department": path[-2] if len(path) > 1 else "",
        "condition": folded(product.get("condition")),
        "currency": currency_of(product),
    }
    attributes = product.get("attributes") or {}
    pairs = attributes.items() if isinstance(attributes, Mapping) else ()
    texts = {
        "title": product.get("title"),
        "description": product.get("description"),
        "brand": product.get("brand"),
        "category": product.get("category"),
        "attributes": " \n ".join(value for _, value in pairs if value),
    }
    held = [word_hashes(words(texts[name] or "")[:MOST_WORDS]) for name in SECTIONS[:-1]]
    held.append(trigram_hashes(words(texts["title"] or "")[:MOST_WORDS]))
    return Signals(
        np.array([numbers[name] for name in NUMBERS], np.float32),
        np.array([hash64(keys[name]) if keys[name] else 0 for name in KEYS], np.uint64),
        np.concatenate(held),
        np.cumsum([len(part) for part in held]).astype(np.uint16),
    )


def word_hashes(found: Sequence[str]) -> NDArray[np.uint32]:
    """The number under which each word is known, (W,)."""
    return np.array([_hash(word) for word in found], np.uint32)


def trigram_hashes(found: Sequence[str]) -> NDArray[np.uint32]:
    """The numbers of the character trigrams of words, each once, ascending; of the first ones where they are many."""
    trigrams = dict.fromkeys(crc32(f" {word} "[at : at + 3].encode()) for word in found for at in range(len(word)))
    return np.array(sorted([*trigrams][:MOST_TRIGRAMS]), np.uint32)


def with_digit(hashes_W: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Which words hold a digit, (W,)."""
    held_W: NDArray[np.bool_] = hashes_W >= _DIGIT
    return held_W


def _plain_digits(word: str) -> str:
    """A word with the digits of whatever script as 0 to 9."""
    return word if word.isascii() else "".join(str(digit(c)) if c.isdecimal() else c for c in word)


def _hash(word: str) -> int:
    number = crc32(_plain_digits(word).encode())
    return number | _DIGIT if any(char.isdigit() for char in word) else number & (_DIGIT - 1)
