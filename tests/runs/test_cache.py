from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from mercato.runs.cache import TTLCache


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_value_is_kept_until_its_time_is_over():
    clock = Clock()
    cache = TTLCache[str, int](2, ttl_seconds=10, clock=clock)
    cache.put("a", 1)
    clock.now = 9.9
    assert cache.get("a") == 1
    clock.now = 10.0
    assert cache.get("a") is None
    assert (cache.hits, cache.misses, len(cache)) == (1, 1, 0)


def test_reading_does_not_prolong_a_value_and_putting_does():
    clock = Clock()
    cache = TTLCache[str, int](2, ttl_seconds=10, clock=clock)
    cache.put("a", 1)
    clock.now = 6
    cache.get("a")
    cache.put("b", 2)
    clock.now = 12
    assert cache.get("a") is None
    assert cache.get("b") == 2


def test_the_least_recently_used_makes_room():
    cache = TTLCache[str, int](2)
    cache.put("a", 1)
    cache.put("b", 2)
    cache.get("a")
    cache.put("c", 3)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == (1, None, 3)


def test_values_may_stand_for_several_items():
    cache = TTLCache[str, str](5, size=len)
    for key, value in (("a", "xx"), ("b", "xxx"), ("a", "x"), ("c", "x")):
        cache.put(key, value)
    assert (cache.get("a"), cache.get("b"), cache.get("c")) == ("x", "xxx", "x")
    cache.put("d", "xx")
    assert (cache.get("a"), cache.get("b"), cache.get("c"), cache.get("d")) == (None, None, "x", "xx")
    cache.put("e", "x" * 9)
    assert cache.get("e") == "x" * 9 and len(cache) == 1, "one stays, however large"
    cache.clear()
    cache.put("f", "xxxxx")
    cache.put("g", "")
    assert cache.get("f") == "xxxxx"


def test_threads_never_see_more_than_the_bound():
    cache = TTLCache[int, int](50)

    def work(seed: int) -> bool:
        for number in range(2000):
            key = (number * seed) % 97
            cache.put(key, key)
            found = cache.get((key * 7) % 97)
            if found is not None and found != (key * 7) % 97:
                return False
        return len(cache) <= 50

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(1, 9)))
    assert cache.hits + cache.misses == 8 * 2000


def test_nonsense_bounds_are_refused():
    with pytest.raises(ValueError):
        TTLCache(0)
    with pytest.raises(ValueError):
        TTLCache(1, ttl_seconds=0)
