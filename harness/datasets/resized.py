"""Another dataset's training rows at another size: to train a generator or a surrogate on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from harness.core.data import Dataset, ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DATASETS
from harness.datasets._images import Fit, resized


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
        images = resized(self.of.images, self.size, self.fit)
        train = ImageSet(images, self.of.labels, self.of.ids, self.of.num_classes)
        names = tuple(f"class {i}" for i in range(self.of.num_classes))
        return Dataset(train, train.take([]), names)
