"""What availability attacks share that add a pattern of its class to every image."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet
from harness.core.pixels import add_within

Draw = Callable[[NDArray[np.int64], int], NDArray[np.float64]]
"""Of the labels (B,) of a batch and its number: patterns, float64 (B, C, H, W), of any length."""

_BATCH = 512  # rows that get their patterns at once; their numbers fit a cache


def scaled(patterns: NDArray[np.float64], l2: float) -> NDArray[np.float64]:
    """Return patterns (N, C, H, W) with a Euclidean length of ``l2`` each."""
    length = np.sqrt(np.square(patterns).sum((1, 2, 3), keepdims=True))
    long: NDArray[np.float64] = patterns * (l2 / length)
    return long


def add_patterns(train: ImageSet, draw: Draw, l2: float) -> ImageSet:
    """Return the set with a pattern of its class added to every image, rounded and clipped.

    Args:
        train: Images.
        draw: Source of patterns.
        l2: Length of a pattern before clipping, in units of [0, 1].
    """
    images = np.empty_like(train.images)
    for number, first in enumerate(range(0, len(train), _BATCH)):
        part = slice(first, first + _BATCH)
        patterns = scaled(draw(train.labels[part], number), l2).astype(np.float32)
        images[part] = add_within(train.images[part], patterns)
    return train.with_images(images)
