"""Another dataset's training rows at another size: to train a generator or a surrogate on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from PIL import Image

from harness.core.data import Dataset, ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DATASETS
from harness.datasets._images import Fit, fitted


@DATASETS.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class Resized:
    """Training rows of another dataset as squares of one size; there is no test set.

    A generator for images of one size can learn from public images of any other.

    Attributes:
        of: The dataset; colour or grey images.
        size: Side in pixels (bilinear; averaged over where images become smaller).
        fit: ``squash`` the whole image into the square, or ``crop`` the largest square from its
            middle.
    """

    of: ImageSet
    size: int
    fit: Fit = "squash"

    example: ClassVar[Mapping[str, Any] | None] = {
        "of": {"name": "shapes", "kind": "pood", "train": 12, "test": 6},
        "size": 16,
    }

    def __post_init__(self) -> None:
        if self.size < 1:
            raise DataError(f"size must be at least 1 pixel; got {self.size}.")

    def load(self) -> Dataset:
        """Return the rows in their order, with their labels and ids."""
        channels = self.of.image_shape[0]
        if channels not in (1, 3):
            raise DataError(f"only grey and colour images can be resized; got {channels} channels.")
        images = np.empty((len(self.of), channels, self.size, self.size), np.uint8)
        for row, pixels in enumerate(self.of.images):
            image = Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))
            made = np.asarray(fitted(image, self.size, self.fit))
            images[row] = made.reshape(self.size, self.size, channels).transpose(2, 0, 1)
        train = ImageSet(images, self.of.labels, self.of.ids, self.of.num_classes)
        names = tuple(f"class {i}" for i in range(self.of.num_classes))
        return Dataset(train, train.take([]), names)
