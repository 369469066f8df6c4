"""An LRU cache with a time to live: the least recently used item leaves first, and none outlives its time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import Generic, TypeVar

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class TTLCache(Generic[K, V]):
    """LRU cache of at most `max_items` values, each for at most `ttl_seconds` after it was put; safe between threads.

    With `size`, which tells how many items a value stands for, it is these that are bounded; one value always stays.
    Eight hours is what Que2Search (§4) keeps query vectors for. `hits` and `misses` count the calls of `get`.
    """

    def __init__(
        self,
        max_items: int,
        ttl_seconds: float = 8 * 3600.0,
        clock: Callable[[], float] = time.monotonic,
        size: Callable[[V], int] = lambda _: 1,
    ) -> None:
        if max_items < 1 or ttl_seconds <= 0:
            raise ValueError("a cache holds at least one item for more than zero seconds")
        self.max_items, self.ttl_seconds = max_items, ttl_seconds
        self.hits, self.misses = 0, 0
        self._clock, self._size, self._lock, self._held = clock, size, Lock(), 0
        self._items: OrderedDict[K, tuple[float, V]] = OrderedDict()

    def get(self, key: K) -> V | None:
        """The value last put under `key`, or None where there is none or its time is over."""
        with self._lock:
            found = self._items.get(key)
            if found is not None and self._clock() < found[0]:
                self._items.move_to_end(key)
                self.hits += 1
                return found[1]
            if found is not None:
                self._drop(key)
            self.misses += 1
            return None

    def put(self, key: K, value: V) -> None:
        """Keep `value` under `key` from now on; the least recently used item makes room."""
        with self._lock:
            if key in self._items:
                self._drop(key)
            self._items[key] = (self._clock() + self.ttl_seconds, value)
            self._held += self._size(value)
            while self._held > self.max_items and len(self._items) > 1:
                self._drop(next(iter(self._items)))

    def clear(self) -> None:
        """Forget every item (the counters stay)."""
        with self._lock:
            self._items.clear()
            self._held = 0

    def __len__(self) -> int:
        return len(self._items)

    def _drop(self, key: K) -> None:
        self._held -= self._size(self._items.pop(key)[1])
