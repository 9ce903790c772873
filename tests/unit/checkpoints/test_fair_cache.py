"""What a namespace keeps too much of is dropped from its own share."""

from __future__ import annotations

import pytest

from trainingrun_operator.checkpoints.fair_cache import FairCache


@pytest.fixture
def cache():
    return FairCache[str, int](limit=4)


def test_a_group_that_fills_it_drops_its_own(cache):
    cache.put("quiet", "a", 1)
    for number in range(100):
        cache.put(f"loud-{number}", "b", number)
    assert cache.get("quiet", "a") == 1
    assert [key in cache for key in ("loud-0", "loud-96", "loud-97", "loud-99")] == [False, False, True, True]
    assert (len(cache), cache.weight) == (4, 4)


def test_what_was_used_last_stays(cache):
    for key in "wxyz":
        cache.put(key, "a", 0)
    cache.get("w", "a")
    cache.put("new", "a", 0)
    assert [key for key in ("w", "x", "y", "z", "new") if key in cache] == ["w", "y", "z", "new"]


def test_what_another_group_uses_is_in_its_share(cache):
    cache.put("shared", "loud", 7)
    assert cache.get("shared", "quiet") == 7
    for number in range(10):
        cache.put(f"loud-{number}", "loud", number)
    assert cache.get("shared", "quiet") == 7


def test_weights_count_and_what_is_too_heavy_is_not_kept(cache):
    cache.put("small", "a", 0)
    cache.put("heavy", "b", 0, weight=3)
    assert ("small" in cache, "heavy" in cache) == (True, True)
    cache.put("huge", "b", 0, weight=5)
    assert ("small" in cache, "heavy" in cache, "huge" in cache) == (True, False, False)
    assert cache.weight == 1


def test_a_value_that_is_put_again_replaces_the_former(cache):
    cache.put("key", "a", 1, weight=2)
    cache.put("key", "b", 2)
    assert (list(cache), cache.weight, cache.get("key", "b"), cache.get("none", "b")) == ([2], 1, 2, None)
    cache.clear()
    assert (len(cache), cache.weight) == (0, 0)
