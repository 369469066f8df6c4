"""What is written of a product: the texts that lexical baselines read."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from mercato.fields import SEARCHED


def field_texts(products: pa.Table, field: str) -> list[str]:
    """A field of each product as one text: the values of a map, "" where there is none."""
    return [_text(value) for value in products.column(field).to_pylist()]


def product_texts(products: pa.Table) -> list[str]:
    """Join each product's fields of `SEARCHED` into one text."""
    columns = [field_texts(products, field) for field in SEARCHED if field in products.column_names]
    return [" ".join(row) for row in zip(*columns, strict=True)] or [""] * products.num_rows


def _text(value: Any) -> str:
    if isinstance(value, list):  # a map arrives as (key, value) pairs
        return " ".join(str(entry) for _, entry in value)
    return value or ""
