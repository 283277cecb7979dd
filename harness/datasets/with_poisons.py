"""Another dataset whose training rows a set of poisons replaces: to train a generator on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.core.data import Dataset, ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DATASETS
from harness.interop.poison_set import UNKNOWN, read_poison_set


@DATASETS.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class WithPoisons:
    """Training rows of another dataset, some of them replaced by poisons; there is no test set.

    A source of images for a generator (PureGen, arXiv 2405.18627, trains some on poisoned data), or
    for a network that shall have seen poisons. An attack's poisons are written by
    ``craft --out FOLDER``.

    Attributes:
        clean: The dataset whose rows the poisons were made of.
        poisons: Folder of a set of poisons (see :mod:`harness.interop.poison_set`).
    """

    clean: ImageSet
    poisons: Path

    example: ClassVar[Mapping[str, Any] | None] = None

    def load(self) -> Dataset:
        """Return the rows in their order, with the poisons' pixels and labels."""
        clean, poisons = self.clean, read_poison_set(self.poisons)
        if poisons.images.shape[1:] != clean.image_shape:
            raise DataError(
                f"poisons {str(self.poisons)!r} are of {poisons.images.shape[1:]}, "
                f"the images of {clean.image_shape}."
            )
        unknown = int(np.sum(poisons.base_ids == UNKNOWN))
        if unknown:
            raise DataError(
                f"poisons {str(self.poisons)!r}: the base rows of {unknown} are not known; "
                "import them with the dataset."
            )
        try:
            rows = clean.positions(poisons.base_ids)
        except DataError:
            raise DataError(
                f"poisons {str(self.poisons)!r} were made of rows that this dataset lacks "
                f"({poisons.meta.dataset or 'its name is not noted'})."
            ) from None
        images, labels = clean.images.copy(), clean.labels.copy()
        images[rows], labels[rows] = poisons.images, poisons.labels
        train = ImageSet(images, labels, clean.ids, clean.num_classes)
        names = tuple(f"class {i}" for i in range(clean.num_classes))
        return Dataset(train, clean.take([]), names)
