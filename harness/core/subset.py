"""Smaller image sets, cut by position so that the same rows come out every time."""

from __future__ import annotations

import numpy as np

from harness.core.data import ImageSet
from harness.core.errors import DataError


def first(images: ImageSet, count: int) -> ImageSet:
    """Return the first ``count`` rows, or all where there are fewer.

    Raises:
        DataError: If ``count`` is below 1.
    """
    _check_count(count)
    return images.take(np.arange(min(count, len(images))))


def per_class(images: ImageSet, count: int | None, skip: int = 0) -> ImageSet:
    """Return the first ``count`` rows of each class after ``skip``, in the order of the set.

    A class with fewer rows keeps those it has; None takes all.

    Raises:
        DataError: If ``count`` is below 1 or above the rows of every class, or a class has no row.
    """
    rows = np.bincount(images.labels, minlength=images.num_classes)
    most = max(0, int(rows.max(initial=0)) - skip)
    if count is not None:
        _check_count(count)
        if count > most:
            after = f" after the first {skip}" if skip else ""
            raise DataError(
                f"cannot take {count} rows of each class: the largest has {most}{after}."
            )
    count = len(images) if count is None else count
    if np.any(rows == 0):
        empty = ", ".join(str(label) for label in np.flatnonzero(rows == 0))
        raise DataError(f"cannot take {count} rows of each class: class {empty} has no row.")
    by_class = np.argsort(images.labels, kind="stable")
    starts = np.cumsum(rows) - rows
    rank = np.empty(len(images), np.int64)
    rank[by_class] = np.arange(len(images)) - np.repeat(starts, rows)
    return images.take((rank >= skip) & (rank < skip + count))


def _check_count(count: int) -> None:
    if count < 1:
        raise DataError(f"the number of rows must be at least 1; got {count}.")
