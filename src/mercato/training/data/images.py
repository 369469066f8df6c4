"""Product images as pixels for fine-tuning: read, decoded and augmented off the thread that trains.

Images stay encoded, as the table holds them, and are decoded when they are asked for; small ones are then kept.
"""

from __future__ import annotations

import os
import threading
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mercato.data.images import load_images
from mercato.data.market import Market
from mercato.errors import MercatoError
from mercato.features.images import ImageSpec, middle_square
from mercato.progress import track

MARGIN = 8 / 7  # images are decoded at least this much larger than the model looks, so that a crop can be random
CACHE_BYTES = 512 * 2**20  # of decoded images; those that come later are decoded every time
AHEAD = 4  # batches that wait for the training thread

T = TypeVar("T")
Pixels = NDArray[np.uint8]


class ProductImages:
    """The images of a table of products. Safe to share between threads; threads of its own decode.

    `counts` (P,) says how many of each product can be read, at most `limit`; the others are skipped.
    """

    def __init__(self, market: Market, rows: NDArray[np.int64], spec: ImageSpec, limit: int) -> None:
        """`rows`: where in the market's table each of the N products stands; all their images are read once here."""
        self.spec, self.limit = spec, limit
        self.side = max(spec.resize, round(spec.size * MARGIN))
        self._path, self._rows = market.path, rows
        self._encoded: pa.ChunkedArray = market.arrow("products", ["images"])["images"]
        self._pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1), "images")
        self._kept: dict[tuple[int, bool], Pixels] = {}
        self._room, self._lock = CACHE_BYTES, threading.Lock()
        read = self._pool.map(lambda product: len(self._squares(product, True)), range(len(rows)))
        self.counts = np.array(list(track(read, "images read", len(rows))), np.int64)

    def pixels(
        self, products: NDArray[np.int64], counts: NDArray[np.int64], generator: np.random.Generator | None = None
    ) -> Pixels:
        """The first images of some products, product by product.

        Args:
            products: (p,) rows of the table, any number of times each.
            counts: (p,) images of each.
            generator: draws a crop and a mirror an image, in one go here and now, so that they do not depend on which
                thread is done first; None: the middle square, pixel for pixel what `ImageSpec.pixels` reads.

        Returns:
            (n, S, S, 3) with n the sum of `counts`. Colours stay as they are: they are what shoppers ask for.

        Raises:
            MercatoError: an image could be read before, and cannot now.
        """
        ends = np.cumsum(counts)
        size = self.spec.size
        result = np.empty((int(ends[-1]) if len(ends) else 0, size, size, 3), np.uint8)
        draws = None if generator is None else generator.random((len(result), 3))

        def fill(product: int, first: int, last: int) -> None:
            squares = self._squares(product, draws is not None)
            if len(squares) < last - first:
                row = self._rows[product]
                raise MercatoError(f"products, row {row}, field images: an image can no longer be read; start anew")
            for place in range(first, last):
                square = squares[place - first]
                result[place] = square if draws is None else _augment(square, size, *draws[place])

        some = counts > 0
        list(self._pool.map(fill, products[some].tolist(), (ends - counts)[some].tolist(), ends[some].tolist()))
        return result

    def _squares(self, product: int, with_margin: bool) -> Pixels:
        key = (product, with_margin)
        if (known := self._kept.get(key)) is not None:
            return known
        images = load_images(self._path, self._encoded[int(self._rows[product])].as_py(), self.limit)
        squares = [np.asarray(middle_square(p, self.side) if with_margin else self.spec.square(p)) for p in images]
        side = self.side if with_margin else self.spec.size
        decoded = np.stack(squares) if squares else np.zeros((0, side, side, 3), np.uint8)
        with self._lock:
            if key not in self._kept and decoded.nbytes <= self._room:
                self._kept[key] = decoded
                self._room -= decoded.nbytes
        return decoded


def ahead(items: Iterator[T], depth: int = AHEAD) -> Iterator[T]:
    """The same items in the same order, made by one other thread, up to `depth` of them before they are asked for."""
    thread = ThreadPoolExecutor(1, "batches")
    end: Any = object()
    try:
        waiting = deque(thread.submit(next, items, end) for _ in range(depth))
        while (item := waiting.popleft().result()) is not end:
            waiting.append(thread.submit(next, items, end))
            yield item
    finally:  # also when nobody asks any more
        thread.shutdown(cancel_futures=True)


def _augment(square: Pixels, size: int, top: float, left: float, mirror: float) -> Pixels:
    room = square.shape[0] - size + 1
    row, column = int(top * room), int(left * room)
    crop = square[row : row + size, column : column + size]
    return crop[:, ::-1] if mirror < 0.5 else crop
