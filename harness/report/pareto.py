"""Which of several choices none of the others beats in everything."""

from __future__ import annotations

from collections.abc import Sequence


def front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Return the positions of the points that no other one beats in both numbers, lower is better.

    Equal points do not beat each other.

    Args:
        points: Any.

    Returns:
        Positions, ascending in the first number.

    >>> front([(1, 9), (2, 5), (3, 6), (4, 1)])
    [0, 1, 3]
    """
    kept = [i for i, p in enumerate(points) if not any(_beats(q, p) for q in points)]
    return sorted(kept, key=lambda i: points[i])


def _beats(one: tuple[float, float], other: tuple[float, float]) -> bool:
    return one != other and one[0] <= other[0] and one[1] <= other[1]
