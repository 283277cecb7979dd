"""A few images at several stages as one picture, pixel by pixel."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from harness.core.errors import DataError

GAP = 4  # pixels between images
TEXT_SIZE = 14


def sample_grid(stages: Mapping[str, NDArray[np.uint8]], magnify: int = 4) -> Image.Image:
    """Return a picture with one labelled row per stage and one column per image.

    Args:
        stages: Images by the name of their stage: uint8 (k, C, H, W), C of 1 or 3, all of one
            shape, k at least 1.
        magnify: Edge of the square that each pixel becomes: nothing is smoothed.

    Raises:
        DataError: If there are no images, or they are of another type or of different shapes.
    """
    shapes = {images.shape for images in stages.values()}
    wrong = [n for n, images in stages.items() if images.dtype != np.uint8 or images.ndim != 4]
    if wrong or len(shapes) != 1:
        told = {name: f"{images.dtype} {images.shape}" for name, images in stages.items()}
        raise DataError(f"stages must be uint8 (k, C, H, W) of one shape; got {told}.")
    count, channels, height, width = shapes.pop()
    if not count or channels not in (1, 3):
        raise DataError(f"a grid needs images of 1 or 3 channels; got {count} of {channels}.")
    font = ImageFont.load_default(TEXT_SIZE)
    left = int(max(font.getlength(name) for name in stages)) + 2 * GAP
    step_x, step_y = width * magnify + GAP, max(height * magnify, TEXT_SIZE) + GAP
    grid = Image.new("RGB", (left + count * step_x, GAP + len(stages) * step_y), "white")
    draw = ImageDraw.Draw(grid)
    for row, (name, images) in enumerate(stages.items()):
        top = GAP + row * step_y
        draw.text((GAP, top + step_y // 2), name, fill="black", font=font, anchor="lm")
        for column, image in enumerate(images):
            pixels = np.repeat(image, 3 // channels, axis=0).transpose(1, 2, 0)
            large = pixels.repeat(magnify, axis=0).repeat(magnify, axis=1)
            grid.paste(Image.fromarray(large), (left + column * step_x, top))
    return grid
