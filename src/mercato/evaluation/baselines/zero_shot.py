"""A pretrained sentence encoder as it is, to compare a run with: no training, no images, text only."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from numpy.typing import NDArray
from torch import Tensor

from mercato.errors import MercatoError
from mercato.models.packed import can_pack, pooled

DESCRIPTION = 300  # characters
TOKENS = 128
BATCH = 64


class ZeroShot:
    """The mean over a transformers model's token states, unit length; E5 models get the prefixes they were trained on.

    A product is its title and the first 300 characters of its description.
    """

    def __init__(self, name: str) -> None:
        """Load by hub name or folder."""
        from transformers import AutoModel, AutoTokenizer

        try:
            self._tokenizer, self._model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
        except (OSError, ValueError) as error:
            raise MercatoError(f"cannot load the encoder {name} to compare with: {error}") from None
        self._prefixes = ("query: ", "passage: ") if "e5" in Path(name).name.lower() else ("", "")

    @property
    def dimension(self) -> int:
        """Length of a vector."""
        return int(self._model.config.hidden_size)

    def encode_queries(self, queries: Sequence[str], country: str | None = None) -> NDArray[np.float32]:
        """(n, d) float32, unit length; the country plays no part."""
        return self._encode([self._prefixes[0] + query for query in queries])

    def encode_products(
        self, products: pa.Table | Sequence[Mapping[str, Any]], *, as_of: datetime | None = None
    ) -> NDArray[np.float32]:
        """(n, d) float32, unit length; the moment plays no part."""
        rows = (
            products.select(["title", "description"]).to_pylist() if isinstance(products, pa.Table) else list(products)
        )
        texts = [f"{row.get('title') or ''} {(row.get('description') or '')[:DESCRIPTION]}".strip() for row in rows]
        return self._encode([self._prefixes[1] + text for text in texts])

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> NDArray[np.float32]:
        result = np.zeros((len(texts), self.dimension), np.float32)
        order = np.argsort([len(text) for text in texts], kind="stable")  # so that a batch pads little
        for start in range(0, len(texts), BATCH):
            rows = order[start : start + BATCH]
            batch = self._tokenizer(
                [texts[row] for row in rows], padding=True, truncation=True, max_length=TOKENS, return_tensors="pt"
            )
            result[rows] = torch.nn.functional.normalize(self._mean(batch), dim=-1).numpy()
        return result

    def _mean(self, batch: Mapping[str, Tensor]) -> Tensor:
        if can_pack(self._model):
            return pooled(self._model, batch["input_ids"], self._tokenizer.pad_token_id, "mean")
        mask = batch["attention_mask"][..., None]
        mean: Tensor = (self._model(**batch).last_hidden_state * mask).sum(1) / mask.sum(1)
        return mean
