"""From plain arrays to a :class:`Dataset`: ids, types and class names, alike for every source."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from harness.core.data import Dataset, ImageSet

# Row i of a test set has this id plus i: no id stands in both sets, and none moves with their size.
TEST_IDS = 10_000_000


def make_dataset(
    train_images: NDArray[np.uint8],
    train_labels: ArrayLike,
    test_images: NDArray[np.uint8],
    test_labels: ArrayLike,
    class_names: Sequence[str],
    train_rows: ArrayLike | None = None,
    test_rows: ArrayLike | None = None,
) -> Dataset:
    """Return a dataset whose ids are a row's index in its source.

    Args:
        train_images: uint8 (N, C, H, W).
        train_labels: Integers (N,) in 0..len(class_names)-1.
        test_images: uint8 (M, C, H, W); M may be 0.
        test_labels: Integers (M,).
        class_names: One name per class.
        train_rows: Integers (N,), index of each row in the published order; None is 0..N-1.
        test_rows: Likewise for the test set.

    Raises:
        DataError: If the arrays do not fit each other.
    """

    def image_set(
        images: NDArray[np.uint8], labels: ArrayLike, rows: ArrayLike | None, first: int
    ) -> ImageSet:
        index = np.arange(len(images)) if rows is None else np.asarray(rows)
        ids = index.astype(np.int64) + first
        return ImageSet(images, np.asarray(labels, dtype=np.int64), ids, len(class_names))

    train = image_set(train_images, train_labels, train_rows, 0)
    test = image_set(test_images, test_labels, test_rows, TEST_IDS)
    return Dataset(train, test, tuple(class_names))
