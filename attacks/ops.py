"""OPS, the one-pixel shortcut: one pixel of every training image tells its class."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.protocols import ATTACKS, Bounds

_CHANNELS = 8  # most channels; the corners of the colour cube double with each


def colours(channels: int) -> NDArray[np.uint8]:
    """Return the corners of the colour cube, uint8 (2^C, C): each channel 0 or 255."""
    return np.array(list(itertools.product((0, 255), repeat=channels)), np.uint8)


def pixel_scores(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Return how well each pixel in each colour tells these images from what they were.

    With d the distance of a channel's value from the colour's, ``mean(d) / std(d)`` over images and
    channels: a change that is large, and alike in all images.

    Args:
        images: uint8 (N, C, H, W) of one class.

    Returns:
        float64 (2^C, H, W); 0 where all have the colour already, inf where all are moved alike.

    Source: One-Pixel Shortcut, arXiv 2205.12141, section 3.
    """
    # d is x for a 0 and 255 - x for a 255, so that the first two moments of x say all. Whole
    # numbers: no rounding, and no image-sized float copies.
    rows, channels = images.shape[:2]
    first = images.sum(0, dtype=np.int64)
    squares = np.square(np.arange(256, dtype=np.int64))[images].sum(0)
    of_black = np.stack([first, squares])
    of_white = np.stack([255 * rows - first, 255**2 * rows - 510 * first + squares])
    white = (colours(channels) > 0)[:, None, :, None, None]
    total, total_squares = np.where(white, of_white, of_black).sum(2).swapaxes(0, 1)
    count = rows * channels
    spread = np.sqrt((count * total_squares - total**2).astype(np.float64))
    scores: NDArray[np.float64] = np.divide(
        total, spread, out=np.full(total.shape, np.inf), where=spread > 0
    )
    scores[total == 0] = 0
    return scores


def find_pixels(train: ImageSet) -> dict[int, tuple[int, int, NDArray[np.uint8]]]:
    """Return, for each class with rows, a row, a column and a colour (C,); no two classes share.

    Classes choose in the order of their labels, each the best pair that is left.
    """
    choices = colours(train.image_shape[0])
    chosen: dict[int, tuple[int, int, NDArray[np.uint8]]] = {}
    taken: list[int] = []
    for label in np.unique(train.labels):
        scores = pixel_scores(train.images[train.labels == label])
        flat = scores.reshape(-1)
        flat[taken] = -1
        best = int(flat.argmax())
        taken.append(best)
        colour, row, column = (int(i) for i in np.unravel_index(best, scores.shape))
        chosen[int(label)] = (row, column, choices[colour])
    return chosen


@ATTACKS.register(paper="arXiv:2205.12141")
@dataclass(frozen=True, slots=True, kw_only=True)
class Ops:
    """Sets one pixel of all training images to a colour that is the same within a class.

    An availability attack without a network and without a draw: success is lost accuracy on clean
    test images. Position and colour are those that change the class's images most, and most alike.
    An image that has the colour there already stays as it is.
    """

    goal: ClassVar[Goal] = "availability"
    target_field: ClassVar[str | None] = None
    example: ClassVar[Mapping[str, Any]] = {}

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check that there are pixels and colours enough for all classes."""
        channels, height, width = train.image_shape
        if channels > _CHANNELS:
            raise DataError(f"images have {channels} channels; at most {_CHANNELS} are allowed.")
        if train.num_classes > 2**channels * height * width:
            raise DataError(f"{train.num_classes} classes are more than pixels times colours.")

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that all rows may change, labels kept; one pixel has no Linf bound."""
        return Bounds(rows=len(train), eps_255=None, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Find each class's pixel and set it."""
        self.check(train, test)
        images = train.images.copy()
        for label, (row, column, colour) in find_pixels(train).items():
            images[train.labels == label, :, row, column] = colour
        return PoisonedSet(train.with_images(images), train.ids, (), self.goal)
