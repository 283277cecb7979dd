"""Median blur of the training images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook

Plane = NDArray[np.uint8]

_BATCH = 256  # planes of a few hundred kB stay in the cache


def median_filter(images: NDArray[np.uint8], window: int) -> NDArray[np.uint8]:
    """Return each pixel's median over a square, reflected at the edges (d c b a | a b c d).

    Args:
        images: uint8 (N, C, H, W).
        window: Side of the square, odd.
    """
    border = window // 2
    padded = np.pad(images, ((0, 0), (0, 0), (border, border), (border, border)), "symmetric")
    height, width = images.shape[2:]
    planes = [
        padded[:, :, y : y + height, x : x + width] for y in range(window) for x in range(window)
    ]
    return _median(planes)


def _median(planes: list[Plane]) -> Plane:
    """Return the elementwise median of an odd number of arrays, by minima and maxima alone.

    The least and the greatest of more than half of the values cannot be the median: they are
    dropped and the next value is taken in, until one is left. Whole arrays are compared at once,
    which is far faster than sorting at every pixel.
    """
    first = len(planes) // 2 + 2
    held, waiting = planes[:first], planes[first:]
    while len(held) > 1:
        held = _without(np.minimum, np.maximum, held)
        held = _without(np.maximum, np.minimum, held)
        held += [waiting.pop()] if waiting else []
    return held[0]


def _without(extreme: np.ufunc, other: np.ufunc, planes: list[Plane]) -> list[Plane]:
    """Return the arrays with each element's extreme taken out; the others change places."""
    carried, kept = planes[0], []
    for plane in planes[1:]:
        kept.append(other(carried, plane))
        carried = extreme(carried, plane)
    return kept


@DEFENSES.register(paper="arXiv:1704.01155")
@dataclass(frozen=True, slots=True, kw_only=True)
class MedianBlur:
    """Replaces every pixel by the median of its surroundings, channel by channel.

    Attributes:
        window: Side of the square around a pixel, odd, at least 3.
    """

    window: int = 3

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        if self.window < 3 or self.window % 2 == 0:
            raise DataError(f"window must be odd and at least 3; got {self.window}.")

    def check(self, train: ImageSet) -> None:
        """Check that the window is no larger than the images."""
        if self.window > min(train.image_shape[1:]):
            raise DataError(
                f"window must not exceed the images' sides; got {self.window} "
                f"for images {train.image_shape}."
            )

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows, blurred."""
        self.check(train)
        images = np.empty_like(train.images)
        for start in range(0, len(train), _BATCH):
            part = slice(start, start + _BATCH)
            images[part] = median_filter(train.images[part], self.window)
        return train.with_images(images)

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
