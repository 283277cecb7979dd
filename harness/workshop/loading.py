"""A dataset as a study asks for it: loaded, cut to its subset, every class with a row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

import numpy as np

from harness.core.data import Dataset, ImageSet
from harness.core.errors import FAILURES, DataError, UsageError
from harness.core.params import ComponentSpec
from harness.core.protocols import DATASETS, DatasetSource
from harness.core.registry import failure
from harness.core.subset import per_class
from harness.core.values import Json


@dataclass(frozen=True, slots=True)
class Outline:
    """What is known of a dataset's training rows without reading them again.

    Attributes:
        digest: Of the rows.
        num_classes: Number of classes.
        image_shape: (C, H, W).
    """

    digest: str
    num_classes: int
    image_shape: tuple[int, int, int]

    @classmethod
    def of(cls, train: ImageSet) -> Self:
        """Return the outline of rows that were read."""
        return cls(train.digest, train.num_classes, train.image_shape)

    @classmethod
    def from_json(cls, raw: Mapping[str, Json]) -> Self:
        """Return the outline of which ``dataclasses.asdict`` made a mapping."""
        channels, height, width = raw["image_shape"]
        return cls(raw["digest"], raw["num_classes"], (channels, height, width))


def load_dataset(source: DatasetSource, spec: ComponentSpec) -> Dataset:
    """Return a dataset after its subset keys.

    Raises:
        UsageError: If the data cannot be loaded or cut so, or a class has no row.
    """
    try:
        data = source.load()
    except UsageError:
        raise
    except FAILURES as error:
        raise failure(f"dataset {spec.name!r}", DATASETS.get(spec.name), error) from error
    train, test = _cut(data.train, "train", spec), _cut(data.test, "test", spec)
    empty = np.flatnonzero(np.bincount(train.labels, minlength=train.num_classes) == 0)
    if len(empty):
        names = ", ".join(data.class_names[i] for i in empty[:5])
        raise DataError(f"dataset {spec.name!r}: {len(empty)} classes have no row ({names}).")
    return Dataset(train, test, data.class_names)


def _cut(images: ImageSet, part: str, spec: ComponentSpec) -> ImageSet:
    """Return the rows of a part that the subset keys of a dataset leave."""
    count = spec.params.get(f"{part}_per_class")
    skip = spec.params.get(f"{part}_skip_per_class", 0)
    if count is None and not skip:
        return images
    try:
        return per_class(images, count, skip)
    except DataError as error:
        key = f"{part}_per_class" if count is not None else f"{part}_skip_per_class"
        raise DataError(f"dataset {spec.name!r}, {key}: {error}") from None
