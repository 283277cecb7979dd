"""A small square that is pasted into images: what it looks like and where it goes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet
from harness.core.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Patch:
    """A square trigger.

    Attributes:
        size_px: Its side.
        margin_px: Its distance from the image's borders; crops cut off what lies there.
        corners: In the ``bottom_right`` one, or in ``all`` four: a victim that mirrors its images
            then sees the trigger where it will be at test time.
        pattern: ``checkers`` of black and white pixels, or ``random`` colours, drawn once.
    """

    size_px: int = 3
    margin_px: int = 0
    corners: Literal["bottom_right", "all"] = "bottom_right"
    pattern: Literal["checkers", "random"] = "checkers"

    def __post_init__(self) -> None:
        if self.size_px < 1 or self.margin_px < 0:
            raise DataError("size_px must be at least 1, and margin_px must not be negative.")

    def check(self, images: ImageSet) -> None:
        """Raise if it does not fit the images."""
        side = min(images.image_shape[1:])
        if self.size_px + self.margin_px > side:
            raise DataError(f"a patch of {self.size_px} + {self.margin_px} px leaves {side} px.")

    def draw(self, image_shape: tuple[int, int, int], rng: np.random.Generator) -> Trigger:
        """Return the trigger on images of a shape (C, H, W)."""
        channels, size = image_shape[0], self.size_px
        square = np.indices((size, size)).sum(0) % 2 * np.full((channels, 1, 1), 255)
        if self.pattern == "random":
            square = rng.integers(0, 256, (channels, size, size))
        pixels = np.zeros(image_shape, np.uint8)
        mask = np.zeros(image_shape[1:], bool)
        near, far = slice(self.margin_px, self.margin_px + size), []
        for side in image_shape[1:]:
            far.append(slice(side - self.margin_px - size, side - self.margin_px))
        places = [(far[0], far[1])]
        if self.corners == "all":
            places += [(near, near), (near, far[1]), (far[0], near)]
        for rows, columns in places:
            pixels[:, rows, columns], mask[rows, columns] = square, True
        return Trigger(pixels, mask)


@dataclass(frozen=True, slots=True, eq=False)
class Trigger:
    """A patch in its place.

    Attributes:
        pixels: uint8 (C, H, W), 0 where the mask is not.
        mask: bool (H, W), where it lies.
    """

    pixels: NDArray[np.uint8]
    mask: NDArray[np.bool_]

    def paste(self, images: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return a copy of images (N, C, H, W) with the trigger over them."""
        return np.where(self.mask, self.pixels, images)
