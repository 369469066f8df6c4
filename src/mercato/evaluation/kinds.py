"""What kind of thing a product is, as far as the catalogue says: the leaf of its category."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from mercato.evaluation.metrics.arrays import IntArray

SEPARATOR = " > "


def leaf_categories(paths: Sequence[str | None]) -> IntArray:
    """A number for each product's category, -1 where it has none or only a wider one than others have: int (N,).

    "Clothing" says no kind where another product is in "Clothing > Tops".
    """
    levels = [tuple(path.split(SEPARATOR)) for path in {*paths} if path]
    inner = {SEPARATOR.join(path[:depth]) for path in levels for depth in range(1, len(path))}
    number = {path: place for place, path in enumerate(sorted({path for path in paths if path} - inner))}
    return np.array([number.get(path or "", -1) for path in paths], dtype=np.int64)
