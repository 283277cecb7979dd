"""Values that cross the boundaries between stages: image sets, poisoned sets, probes."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from numbers import Real
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError

Goal = Literal["none", "triggered", "targeted", "availability"]


def _read_only(array: NDArray[np.generic]) -> NDArray[np.generic]:
    view = array.view()
    view.flags.writeable = False
    return view


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images as they are stored: what a PNG holds, shared without a copy.

    Attributes:
        images: uint8, shape (N, C, H, W), values 0..255. Read-only.
        labels: int64, shape (N,), values 0..num_classes-1. Read-only.
        ids: int64, shape (N,), unique; every stage keeps a row's id. Read-only.
        num_classes: Number of classes, also of those with no row here.

    Raises:
        DataError: If a shape, type or range is another one, or an id stands twice.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    ids: NDArray[np.int64]
    num_classes: int

    def __post_init__(self) -> None:
        images, labels, ids = self.images, self.labels, self.ids
        if images.dtype != np.uint8 or images.ndim != 4:
            raise DataError(
                f"images must be uint8 of shape (N, C, H, W); got {images.dtype} {images.shape}."
            )
        for name, column in (("labels", labels), ("ids", ids)):
            if column.dtype != np.int64 or column.shape != (len(images),):
                raise DataError(
                    f"{name} must be int64 of shape ({len(images)},); "
                    f"got {column.dtype} {column.shape}."
                )
        if len(labels) and not (labels.min() >= 0 and labels.max() < self.num_classes):
            raise DataError(
                f"labels must lie in 0..{self.num_classes - 1}; got {labels.min()}..{labels.max()}."
            )
        if len(np.unique(ids)) != len(ids):
            raise DataError("ids must be unique; some stand twice.")
        for name in ("images", "labels", "ids"):
            object.__setattr__(self, name, _read_only(getattr(self, name)))

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of one image."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_] | Sequence[int]) -> ImageSet:
        """Return the rows given by position or by mask, in that order, with their ids."""
        index = np.asarray(rows)
        if index.dtype != np.bool_:
            index = index.astype(np.int64)
        return ImageSet(self.images[index], self.labels[index], self.ids[index], self.num_classes)

    def with_images(self, images: NDArray[np.uint8]) -> ImageSet:
        """Return the same rows with other pixels."""
        return ImageSet(images, self.labels, self.ids, self.num_classes)

    def positions(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the positions of the rows with these ids.

        Raises:
            DataError: If an id is not here.
        """
        order = np.argsort(self.ids, kind="stable")
        found = np.searchsorted(self.ids, ids, sorter=order)
        position = order[np.minimum(found, len(order) - 1)] if len(order) else found
        if len(ids) and (not len(order) or not np.array_equal(self.ids[position], ids)):
            raise DataError("some ids are not in this set.")
        return position.astype(np.int64)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of pixels, labels, ids and class count: what the set is."""
        sha = hashlib.sha256(f"{self.images.shape} {self.num_classes}".encode())
        for array in (self.images, self.labels, self.ids):
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


@dataclass(frozen=True, eq=False)
class Dataset:
    """A training and a test set with the same classes.

    Attributes:
        train: Rows that may be poisoned, purified and trained on.
        test: Rows for evaluation only; may be empty for a source of public images.
        class_names: One name per class.
    """

    train: ImageSet
    test: ImageSet
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if not self.train.num_classes == self.test.num_classes == len(self.class_names):
            raise DataError(
                f"train has {self.train.num_classes} classes, test {self.test.num_classes}, "
                f"and there are {len(self.class_names)} class names; they must agree."
            )
        if len(self.test) and self.train.image_shape != self.test.image_shape:
            raise DataError(
                f"train images are {self.train.image_shape}, "
                f"test images {self.test.image_shape}; they must agree."
            )


@dataclass(frozen=True, eq=False)
class Probe:
    """Test images on which an attack wants one wrong answer.

    Attributes:
        name: Short and stable, a metric's name is made of it: ``"x1"``, ``"x2"``, ``"target"``.
        images: Triggered or target test images with their **true** labels.
        adv_labels: int64 (N,), the label the attacker wants for each; never the true one.
    """

    name: str
    images: ImageSet
    adv_labels: NDArray[np.int64]

    def __post_init__(self) -> None:
        if self.adv_labels.dtype != np.int64 or self.adv_labels.shape != (len(self.images),):
            raise DataError(f"adv_labels must be int64 of shape ({len(self.images)},).")
        if not len(self.images):
            raise DataError(f"probe {self.name!r} has no images; success over none is undefined.")
        if np.any(self.adv_labels == self.images.labels):
            raise DataError(
                f"probe {self.name!r} has images whose true label is the adversary's; "
                "leave them out: a right answer is no attack success."
            )
        if self.adv_labels.min() < 0 or self.adv_labels.max() >= self.images.num_classes:
            raise DataError(
                f"adv_labels of probe {self.name!r} must lie in 0..{self.images.num_classes - 1}; "
                f"got {self.adv_labels.min()}..{self.adv_labels.max()}."
            )


@dataclass(frozen=True, eq=False)
class PoisonedSet:
    """What an attack hands on: a training set, and the test images that judge the attack.

    Attributes:
        train: The training set, poisoned.
        poison_ids: int64, unique: ids of the rows that the attacker changed. The defense never
            sees them.
        probes: The first one gives the headline success rate. Empty for availability attacks.
        goal: How success is counted (attacks differ in what they want).
        details: Plain numbers for the record, for example a final loss.
        trigger: float32 (C, H, W) in units of [0, 1], where the attack has one.
    """

    train: ImageSet
    poison_ids: NDArray[np.int64]
    probes: tuple[Probe, ...]
    goal: Goal
    details: dict[str, float] = field(default_factory=dict)
    trigger: NDArray[np.float32] | None = None

    def __post_init__(self) -> None:
        ids = self.poison_ids
        if ids.dtype != np.int64 or ids.ndim != 1 or len(np.unique(ids)) != len(ids):
            raise DataError(f"poison_ids must be int64, one per row; got {ids.dtype} {ids.shape}.")
        self.train.positions(ids)
        names = [probe.name for probe in self.probes]
        if len(set(names)) != len(names):
            raise DataError(f"probes need names of their own; got {', '.join(names)}.")
        if self.goal not in get_args(Goal):
            raise DataError(f"goal must be one of {', '.join(get_args(Goal))}; got {self.goal!r}.")
        for name, value in self.details.items():
            if not isinstance(value, Real):
                raise DataError(
                    f"details are plain numbers; {name!r} is {type(value).__name__}. float() makes "
                    "one of an array's or a tensor's only value."
                )
        trigger = self.trigger
        shape = self.train.image_shape
        if trigger is not None and (trigger.dtype != np.float32 or trigger.shape != shape):
            raise DataError(
                f"trigger must be float32 of shape {shape}; got {trigger.dtype} {trigger.shape}."
            )
        if self.goal in ("triggered", "targeted") and not self.probes:
            raise DataError(f"a {self.goal} attack needs at least one probe.")
