"""What was asked for last, kept in memory."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Recent(Generic[T]):
    """Keeps what was asked for last by its name, as much of it as there is room for.

    What was not asked for for longest goes first. The last one stays, whatever its size.

    Args:
        room: How much is kept, in the unit of ``size``.
        size: What one takes of it; by default they are counted.
    """

    def __init__(self, room: int, size: Callable[[T], int] = lambda _: 1) -> None:
        self.room, self.size = room, size
        self._kept: OrderedDict[str, tuple[T, int]] = OrderedDict()

    def __contains__(self, name: str) -> bool:
        return name in self._kept

    def get(self, name: str, make: Callable[[], T]) -> T:
        """Return what has this name; it is made if it is not kept."""
        if name not in self._kept:
            value = make()
            self._kept[name] = value, self.size(value)
        self._kept.move_to_end(name)
        while len(self._kept) > 1 and sum(size for _, size in self._kept.values()) > self.room:
            self._kept.popitem(last=False)
        return self._kept[name][0]
