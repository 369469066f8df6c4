"""The featurizer: raw queries and products as the arrays that the towers read, the same in training and serving."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mercato.data.normalize import clean, normalize
from mercato.features.context import ContextSpec
from mercato.features.ids import QUERY, KnownIds, id_rows
from mercato.features.images import image_shape
from mercato.features.trigrams import trigram_ids
from mercato.fields import FEATURES, FIELDS, PRODUCT_CHANNELS, Channel, ChannelKind
from mercato.files import write_atomic

Features = dict[str, NDArray[Any]]
"""Tower inputs by name, first axis the batch (B): token and trigram ids (B, L) int64, 0- or pad-filled to the longest;
country and language ids (B,) int64, 0 = unknown; `images` (B, I, V) float32 with `image_mask` (B, I) bool, or in their
place `patches` (B, I, P, V) float32 with `patch_mask` (B, I) bool, whether there is the image; `context_numbers`
(B, 2F) float32 and `context_categories` (B, K) int64, see `mercato.features.context`; `ids` (B, K) and `query_ids`
(B, 1) int64, 0 = unknown, see `mercato.features.ids`."""


@dataclass(frozen=True, kw_only=True)
class FeatureSpec:
    """All that turns raw fields into arrays, besides the tokenizer itself; saved in the run as `features.json`."""

    query_channels: tuple[str, ...]
    product_channels: tuple[str, ...]
    pad_id: int
    vocabulary: int
    buckets: int
    query_tokens: int  # caps, in tokens with <s> and </s>
    query_characters: int
    title_tokens: int
    description_tokens: int
    countries: tuple[str, ...]  # id = place + 1
    languages: tuple[str, ...]
    max_images: int = 0
    image_dimension: int = 0
    image_patches: int = 0  # of an image, each of so many numbers; 0: an image is one vector
    query_prefix: str = ""
    product_prefix: str = ""
    normalized: bool = True  # tokens are of normalised text; a pretrained tokenizer wants the raw
    context: ContextSpec | None = None  # there where `context` is a product channel
    other_categories: tuple[tuple[str, tuple[str, ...]], ...] = ()  # of any other field with a channel: its values
    product_ids: tuple[tuple[str, int], ...] = ()  # where `ids` is a product channel: its fields and their buckets
    query_ids: int = 0  # the buckets of the queries' ids, where they have the channel

    @property
    def categories(self) -> Mapping[str, tuple[str, ...]]:
        """The values of every category that has a channel, by field."""
        return {"country": self.countries, "language": self.languages, **dict(self.other_categories)}

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Of an image: (V,), or in patches (P, V)."""
        return image_shape(self.image_dimension, self.image_patches)

    def tokens(self, field: str) -> int:
        """The most tokens that are read of a product's field."""
        return self.description_tokens if field == "description" else self.title_tokens

    def missing(self, feature: str) -> int:
        """What an array holds where a product or query lacks the field."""
        value = FEATURES[feature].missing
        return self.pad_id if value == "pad_id" else value

    def save(self, file: Path) -> None:
        """Write as JSON."""
        write_atomic(file, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote."""
        fields = json.loads(file.read_text())
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        values["other_categories"] = tuple((name, tuple(own)) for name, own in fields.get("other_categories", ()))
        values["product_ids"] = tuple((name, buckets) for name, buckets in fields.get("product_ids", ()))
        if values.get("context") is not None:
            values["context"] = ContextSpec.from_json(fields["context"])
        return cls(**values)


class ProductBatch:
    """Rows of the products schema on their way to arrays; a field's text is normalised once for all its channels."""

    def __init__(
        self,
        spec: FeatureSpec,
        products: Sequence[Mapping[str, Any]],
        images: Sequence[NDArray[np.float32] | None] | None,
        as_of: datetime,
    ) -> None:
        self._spec, self.products, self.as_of = spec, products, as_of
        self.images = images or [None] * len(products)
        self._normalized: dict[str, list[str]] = {}

    def values(self, field: str) -> list[str]:
        """A field of every product, "" where it has none."""
        return [product.get(field) or "" for product in self.products]

    def normalized(self, field: str) -> list[str]:
        """A field of every product, normalised, cut to what tokens and trigrams can read of it."""
        if field not in self._normalized:
            longest = 16 * max(self._spec.tokens(field), FIELDS[field].characters)
            self._normalized[field] = [normalize(text[:longest]) for text in self.values(field)]
        return self._normalized[field]

    def joined(self, fields: Sequence[str]) -> list[str]:
        """Some fields of every product as one text."""
        return [" ".join(filter(None, (product.get(field) for field in fields))) for product in self.products]


class Featurizer:
    """Raw queries and products → a tower's inputs. Stateless and safe to share between threads."""

    def __init__(self, spec: FeatureSpec, tokenizer: Tokenizer, known_ids: KnownIds | None = None) -> None:
        self.spec, self.tokenizer = spec, tokenizer
        self.known_ids = known_ids or {}
        tokenizer.no_padding()
        tokenizer.no_truncation()
        # In lower case on both sides: the ids are by content, whoever writes it.
        self._ids: dict[str, dict[str, int]] = {}
        for field, values in spec.categories.items():
            ids = self._ids[field] = {}
            for place, name in enumerate(values):
                ids.setdefault(name.lower(), place + 1)

    def queries(self, queries: Sequence[str], countries: Sequence[str | None]) -> Features:
        """Inputs of the query tower: `tokens`, `trigrams`, `country`, `query_ids`, as far as it has the channel."""
        spec, features = self.spec, Features()
        queries = [query[: 16 * max(spec.query_tokens, spec.query_characters)] for query in queries]
        texts = [normalize(query) for query in queries]
        if "text" in spec.query_channels:
            raw = texts if spec.normalized else [clean(query) for query in queries]
            features["tokens"] = self._tokens(raw, spec.query_prefix, spec.query_tokens)
        if "trigrams" in spec.query_channels:
            features["trigrams"] = self._trigrams(texts, spec.query_characters)
        if "country" in spec.query_channels:
            features["country"] = self._category("country", countries)
        if "ids" in spec.query_channels:
            features["query_ids"] = id_rows(QUERY, texts, self.known_ids[QUERY], spec.query_ids)[:, None]
        return features

    def products(
        self,
        products: Sequence[Mapping[str, Any]],
        images: Sequence[NDArray[np.float32] | None] | None = None,
        as_of: datetime | None = None,
    ) -> Features:
        """Inputs of the product tower: the arrays of its channels (`mercato.fields.PRODUCT_CHANNELS`), in their order.

        Args:
            products: rows of the products schema; a field may be absent.
            images: a product's image vectors (n_i, V) each, in patches (n_i, P, V); None or empty for none.
            as_of: the moment at which listings have their age; None: the clock's.
        """
        batch = ProductBatch(self.spec, products, images, as_of or datetime.now(UTC))
        features = Features()
        for channel in PRODUCT_CHANNELS.values():
            if channel.name in self.spec.product_channels:
                arrays = MAKERS[channel.kind](self, channel, batch)
                features |= zip((feature.name for feature in channel.features), arrays, strict=True)
        return features

    def text_arrays(self, channel: Channel, batch: ProductBatch) -> Arrays:
        """Token ids (B, L) of a field, or of several as one text."""
        spec, cap = self.spec, sum(map(self.spec.tokens, channel.fields))
        if len(channel.fields) > 1:
            tidy = normalize if spec.normalized else clean
            texts = [tidy(text[: 32 * cap]) for text in batch.joined(channel.fields)]
        elif spec.normalized:
            texts = batch.normalized(channel.fields[0])
        else:
            texts = [clean(text[: 32 * cap]) for text in batch.values(channel.fields[0])]
        return [self._tokens(texts, spec.product_prefix, cap)]

    def trigram_arrays(self, channel: Channel, batch: ProductBatch) -> Arrays:
        """Hashed trigrams (B, T) of a field."""
        (field,) = channel.fields
        return [self._trigrams(batch.normalized(field), FIELDS[field].characters)]

    def category_arrays(self, channel: Channel, batch: ProductBatch) -> Arrays:
        """The ids (B,) of a category."""
        (field,) = channel.fields
        return [self._category(field, batch.values(field))]

    def image_arrays(self, channel: Channel, batch: ProductBatch) -> Arrays:
        """Image vectors (B, I, V), or their patches (B, I, P, V), and which images there are, (B, I)."""
        count = self.spec.max_images
        vectors = np.zeros((len(batch.products), count, *self.spec.image_shape), np.float32)
        mask = np.zeros((len(batch.products), count), bool)
        for row, own in enumerate(batch.images):
            if own is not None and len(own):
                n = min(len(own), count)
                vectors[row, :n], mask[row, :n] = own[:n], True
        return [vectors, mask]

    def context_arrays(self, channel: Channel, batch: ProductBatch) -> Arrays:
        """The context's numbers (B, 2F) and categories (B, K)."""
        assert self.spec.context is not None
        return list(self.spec.context.features(batch.products, batch.as_of).values())

    def id_arrays(self, channel: Channel, batch: ProductBatch) -> Arrays:
        """The rows of its ids (B, K), one a field."""
        columns = [
            id_rows(field, batch.values(field), self.known_ids[field], buckets)
            for field, buckets in self.spec.product_ids
        ]
        return [np.stack(columns, axis=1)]

    def _tokens(self, texts: Sequence[str], prefix: str, cap: int) -> NDArray[np.int64]:
        rows = []
        for text, encoding in zip(
            texts, self.tokenizer.encode_batch_fast([prefix + text for text in texts]), strict=True
        ):
            # An empty field is missing, whatever the prefix; a "<pad>" that somebody typed must not look like the end.
            ids = [i for i in encoding.ids if i != self.spec.pad_id] if text else []
            rows.append([*ids[: cap - 1], ids[-1]] if len(ids) > cap else ids)
        return pad(rows, self.spec.pad_id)

    def _trigrams(self, texts: Sequence[str], cap: int) -> NDArray[np.int64]:
        return pad([trigram_ids(text, self.spec.buckets, cap) for text in texts], 0)

    def _category(self, field: str, values: Sequence[str | None]) -> NDArray[np.int64]:
        ids = self._ids[field]
        return np.array([ids.get((value or "").lower(), 0) for value in values], np.int64)


Arrays = list[NDArray[Any]]

MAKERS: dict[ChannelKind, Callable[[Featurizer, Channel, ProductBatch], Arrays]] = {
    "text": Featurizer.text_arrays,
    "trigrams": Featurizer.trigram_arrays,
    "category": Featurizer.category_arrays,
    "images": Featurizer.image_arrays,
    "patches": Featurizer.image_arrays,
    "context": Featurizer.context_arrays,
    "ids": Featurizer.id_arrays,
}
"""How a product's channel becomes its arrays, by its kind: those of `Channel.features`, in that order."""


def pad(rows: Sequence[Sequence[int]], fill: int) -> NDArray[np.int64]:
    """Ragged ids as (B, L) int64, L the longest row, at least 1."""
    length = max(map(len, rows), default=0) or 1
    result = np.full((len(rows), length), fill, np.int64)
    for row, ids in zip(result, rows, strict=True):
        row[: len(ids)] = ids
    return result
