"""A cache with one limit for all groups: what is over it is dropped from the group that holds the most."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterator

K = TypeVar("K", bound="Hashable")
V = TypeVar("V")


class _Kept(NamedTuple, Generic[V]):
    value: V
    weight: int
    group: str


class FairCache(Generic[K, V]):
    """Keeps recently used values up to a total weight. Not thread-safe.

    Groups are namespaces: one that fills the cache drops its own values, oldest first, and not those of others.
    """

    def __init__(self, limit: int) -> None:
        """``limit``: total weight, in the unit of `put`."""
        self._limit = limit
        self._kept: dict[K, _Kept[V]] = {}
        self._order: defaultdict[str, OrderedDict[K, None]] = defaultdict(OrderedDict)
        """By group, the keys, least recently used first."""
        self._weights: defaultdict[str, int] = defaultdict(int)

    def __contains__(self, key: object) -> bool:
        return key in self._kept

    def __len__(self) -> int:
        return len(self._kept)

    def __iter__(self) -> Iterator[V]:
        return (kept.value for kept in self._kept.values())

    @property
    def weight(self) -> int:
        """Of all values together."""
        return sum(self._weights.values())

    def get(self, key: K, group: str) -> V | None:
        """Return a value, which counts for this group from now on; None: it is not kept."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._remove(key)
        self._add(key, kept._replace(group=group))
        return kept.value

    def put(self, key: K, group: str, value: V, weight: int = 1) -> None:
        """Keep a value. Drops older ones of the group with the most weight until the limit is met, this one included."""
        self._remove(key)
        self._add(key, _Kept(value, weight, group))
        while self.weight > self._limit:
            heaviest = max(self._weights, key=self._weights.__getitem__)
            self._remove(next(iter(self._order[heaviest])))

    def clear(self) -> None:
        """Drop everything."""
        for kept in (self._kept, self._order, self._weights):
            kept.clear()

    def _add(self, key: K, kept: _Kept[V]) -> None:
        self._kept[key] = kept
        self._order[kept.group][key] = None
        self._weights[kept.group] += kept.weight

    def _remove(self, key: K) -> None:
        kept = self._kept.pop(key, None)
        if kept is None:
            return
        del self._order[kept.group][key]
        self._weights[kept.group] -= kept.weight
        if not self._order[kept.group]:
            del self._order[kept.group], self._weights[kept.group]
