"""Raw queries and products as the arrays that the towers read; the same code feeds training and serving."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from mercato.data.normalize import clean, normalize
from mercato.features.context import ContextSpec
from mercato.features.trigrams import trigram_ids
from mercato.files import write_atomic

Features = dict[str, NDArray[Any]]
"""Tower inputs by name, first axis the batch (B): token and trigram ids (B, L) int64, 0- or pad-filled to the longest;
country and language ids (B,) int64, 0 = unknown; `images` (B, I, V) float32 with `image_mask` (B, I) bool;
`context_numbers` (B, 2F) float32 and `context_categories` (B, G) int64, see `mercato.features.context`."""

TITLE_TRIGRAMS, DESCRIPTION_TRIGRAMS = 128, 256  # characters of each that count


@dataclass(frozen=True)
class FeatureSpec:
    """All that turns text into ids, besides the tokenizer itself; saved in the run as `features.json`."""

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
    query_prefix: str = ""
    product_prefix: str = ""
    normalized: bool = True  # tokens are of normalised text; a pretrained tokenizer wants the raw
    context: ContextSpec | None = None  # there where `context` is a product channel

    def save(self, file: Path) -> None:
        """Write as JSON."""
        write_atomic(file, json.dumps(asdict(self), indent=2, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, file: Path) -> Self:
        """Read what `save` wrote."""
        fields = json.loads(file.read_text())
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in fields.items()}
        if values.get("context") is not None:
            values["context"] = ContextSpec.from_json(fields["context"])
        return cls(**values)


class Featurizer:
    """Text → ids. Stateless and safe to share between threads."""

    def __init__(self, spec: FeatureSpec, tokenizer: Tokenizer) -> None:
        self.spec, self.tokenizer = spec, tokenizer
        tokenizer.no_padding()
        tokenizer.no_truncation()
        self._countries = {name: i + 1 for i, name in enumerate(spec.countries)}
        self._languages = {name: i + 1 for i, name in enumerate(spec.languages)}

    def queries(self, queries: Sequence[str], countries: Sequence[str | None]) -> Features:
        """Inputs of the query tower: `tokens`, `trigrams`, `country`, as far as the tower has the channel."""
        spec, features = self.spec, Features()
        queries = [query[: 16 * max(spec.query_tokens, spec.query_characters)] for query in queries]
        texts = [normalize(query) for query in queries]
        if "text" in spec.query_channels:
            raw = texts if spec.normalized else [clean(query) for query in queries]
            features["tokens"] = self._tokens(raw, spec.query_prefix, spec.query_tokens)
        if "trigrams" in spec.query_channels:
            features["trigrams"] = self._trigrams(texts, spec.query_characters)
        if "country" in spec.query_channels:
            features["country"] = np.array([self._countries.get((c or "").lower(), 0) for c in countries], np.int64)
        return features

    def products(
        self,
        products: Sequence[Mapping[str, Any]],
        images: Sequence[NDArray[np.float32] | None] | None = None,
        now: datetime | None = None,
    ) -> Features:
        """Inputs of the product tower.

        Args:
            products: rows of the products schema; a field may be absent.
            images: a product's image vectors (n_i, V) each, None or empty for none.
            now: the moment at which a listing's age is told; None: the clock's.
        """
        spec, features = self.spec, Features()
        for field, tokens, characters in (
            ("title", spec.title_tokens, TITLE_TRIGRAMS),
            ("description", spec.description_tokens, DESCRIPTION_TRIGRAMS),
        ):
            raw = [product.get(field) or "" for product in products]
            texts = [normalize(text[: 16 * max(tokens, characters)]) for text in raw]
            if f"{field}_text" in spec.product_channels:
                features[f"{field}_tokens"] = self._tokens(
                    texts if spec.normalized else [clean(text[: 32 * tokens]) for text in raw],
                    spec.product_prefix,
                    tokens,
                )
            if f"{field}_trigrams" in spec.product_channels:
                features[f"{field}_trigrams"] = self._trigrams(texts, characters)
        if "text" in spec.product_channels:
            cap = spec.title_tokens + spec.description_tokens
            both = [" ".join(filter(None, (p.get("title"), p.get("description"))))[: 32 * cap] for p in products]
            tidy = normalize if spec.normalized else clean
            features["text_tokens"] = self._tokens([tidy(text) for text in both], spec.product_prefix, cap)
        if "language" in spec.product_channels:
            features["language"] = np.array(
                [self._languages.get(p.get("language") or "", 0) for p in products], np.int64
            )
        if "country" in spec.product_channels:
            features["country"] = np.array(
                [self._countries.get((p.get("country") or "").lower(), 0) for p in products], np.int64
            )
        if "images" in spec.product_channels:
            features["images"], features["image_mask"] = self._images(images or [None] * len(products))
        if "context" in spec.product_channels:
            assert spec.context is not None
            features |= spec.context.features(products, now or datetime.now(UTC))
        return features

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

    def _images(self, images: Sequence[NDArray[np.float32] | None]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        count, width = self.spec.max_images, self.spec.image_dimension
        vectors = np.zeros((len(images), count, width), np.float32)
        mask = np.zeros((len(images), count), bool)
        for row, own in enumerate(images):
            if own is not None and len(own):
                n = min(len(own), count)
                vectors[row, :n], mask[row, :n] = own[:n], True
        return vectors, mask


def pad(rows: Sequence[Sequence[int]], fill: int) -> NDArray[np.int64]:
    """Ragged ids as (B, L) int64, L the longest row, at least 1."""
    length = max(map(len, rows), default=0) or 1
    result = np.full((len(rows), length), fill, np.int64)
    for row, ids in zip(result, rows, strict=True):
        row[: len(ids)] = ids
    return result
