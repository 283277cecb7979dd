"""Four classes that a tiny network learns in a few epochs: noisy copies of coarse patterns."""

from __future__ import annotations

import numpy as np

from harness.core.data import ImageSet

CLASSES = 4


def prototypes(rows: int, noise: float, seed: int) -> ImageSet:
    """Return images of 16 pixels a side; ``noise`` is a standard deviation in grey levels."""
    coarse = np.random.default_rng(99).uniform(60, 195, (CLASSES, 3, 4, 4))
    patterns = coarse.repeat(4, 2).repeat(4, 3)
    labels = np.arange(rows, dtype=np.int64) % CLASSES
    added = np.random.default_rng(seed).normal(0, noise, (rows, 3, 16, 16))
    images = np.clip(patterns[labels] + added, 0, 255).astype(np.uint8)
    return ImageSet(images, labels, np.arange(rows, dtype=np.int64), CLASSES)
