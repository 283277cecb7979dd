"""Anyone's own arrays, from one .npz file."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.data import Dataset
from harness.core.errors import DataError
from harness.core.files import why_no_arrays
from harness.core.protocols import DATASETS
from harness.core.seeds import stream
from harness.datasets._common import make_dataset
from harness.datasets._images import Fit, resized

Array = NDArray[Any]
Layout = Literal["auto", "NHWC", "NCHW"]

SPLIT = ("x_train", "y_train", "x_test", "y_test")
WHOLE = ("images", "labels")
CHANNELS = (1, 3)  # grey and RGB; by these the channel axis is found


@DATASETS.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class Npz:
    """Images and labels from a .npz file: uint8 arrays, whole or split into training and test.

    The file has ``x_train``, ``y_train``, ``x_test`` and ``y_test``, or ``images`` and ``labels``;
    ``class_names`` is optional. Images are (N, H, W, C), (N, C, H, W) or, grey, (N, H, W).

    Attributes:
        path: The file.
        num_classes: Number of classes C, labels being 0..C-1; None takes the number of
            ``class_names``, or else the largest label plus 1.
        test_share: Share of each class of ``images`` that becomes the test set, in [0, 1).
        seed: Of the draw of that share.
        layout: Which axis is which; ``auto`` takes the axis of 1 or 3 entries for the channels.
        size: Side in pixels that each image gets (bilinear; averaged over where images become
            smaller); None keeps their size.
        fit: ``squash`` the whole image into the square, or ``crop`` the largest square from its
            middle.
    """

    path: Path
    num_classes: int | None = None
    test_share: float = 0.0
    seed: int = 0
    layout: Layout = "auto"
    size: int | None = None
    fit: Fit = "squash"

    example: ClassVar[Mapping[str, Any] | None] = None

    def __post_init__(self) -> None:
        if not 0 <= self.test_share < 1:
            raise DataError(f"test_share must lie in [0, 1); got {self.test_share}.")
        if self.num_classes is not None and self.num_classes < 1:
            raise DataError(f"num_classes must be at least 1; got {self.num_classes}.")
        if self.seed < 0:
            raise DataError(f"seed must not be negative; got {self.seed}.")
        if self.size is not None and self.size < 1:
            raise DataError(f"size must be at least 1 pixel; got {self.size}.")

    def load(self) -> Dataset:
        """Read the file, check it, and split it if that is asked for."""
        arrays = _read(self.path)
        where = str(self.path)
        if set(SPLIT) <= set(arrays):
            return self._split_by_file(arrays, where)
        if set(WHOLE) <= set(arrays):
            return self._split_by_share(arrays, where)
        raise DataError(
            f"{where} must hold {', '.join(SPLIT)}, or {' and '.join(WHOLE)}; "
            f"it holds {', '.join(sorted(arrays)) or 'nothing'}."
        )

    def _split_by_file(self, arrays: Mapping[str, Array], where: str) -> Dataset:
        if self.test_share:
            raise DataError(f"{where} has a test set of its own; leave test_share out.")
        train, train_labels = self._checked(arrays, "x_train", "y_train")
        test, test_labels = self._checked(arrays, "x_test", "y_test")
        names = self._class_names(arrays, np.concatenate([train_labels, test_labels]))
        return make_dataset(train, train_labels, test, test_labels, names)

    def _split_by_share(self, arrays: Mapping[str, Array], where: str) -> Dataset:
        images, labels = self._checked(arrays, *WHOLE)
        names = self._class_names(arrays, labels)
        in_test = stratified(labels, self.test_share, self.seed)
        if self.test_share and not in_test.any():
            raise DataError(
                f"test_share {self.test_share} leaves no test image of the {len(labels)} in "
                f"{where}: no class has enough."
            )
        train_rows, test_rows = np.flatnonzero(~in_test), np.flatnonzero(in_test)
        return make_dataset(
            images[train_rows], labels[train_rows], images[test_rows], labels[test_rows], names,
            train_rows, test_rows,
        )  # fmt: skip

    def _checked(
        self, arrays: Mapping[str, Array], image_key: str, label_key: str
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        images = as_nchw(arrays[image_key], f"{image_key} of {self.path}", self.layout)
        labels = as_labels(arrays[label_key], f"{label_key} of {self.path}")
        if len(images) != len(labels):
            raise DataError(
                f"{image_key} of {self.path} has {len(images)} rows, {label_key} {len(labels)}; "
                "they must agree."
            )
        return images if self.size is None else resized(images, self.size, self.fit), labels

    def _class_names(self, arrays: Mapping[str, Array], labels: NDArray[np.int64]) -> list[str]:
        if not len(labels):
            raise DataError(f"{self.path} has no rows.")
        given = arrays.get("class_names")
        if given is not None and (given.ndim != 1 or given.dtype.kind != "U"):
            raise DataError(
                f"class_names of {self.path} must be a list of strings; "
                f"got {given.dtype} {given.shape}."
            )
        highest = int(labels.max())
        count = self.num_classes or (highest + 1 if given is None else len(given))
        if given is not None and len(given) != count:
            raise DataError(
                f"{self.path} has {len(given)} class_names, but num_classes is {count}."
            )
        if highest >= count:
            raise DataError(
                f"labels of {self.path} must lie in 0..{count - 1} for {count} classes; "
                f"the largest is {highest}."
            )
        if self.num_classes is None and given is None and count > len(labels):
            raise DataError(
                f"the largest label of {self.path} is {highest}, but it has only {len(labels)} "
                "rows. Labels are 0..C-1; if this is right, give num_classes."
            )
        return [str(n) for n in (range(count) if given is None else given)]


def _read(path: Path) -> dict[str, Array]:
    """Return all arrays of a file; nothing in it is run.

    Raises:
        DataError: If it is missing, damaged, no .npz file, or holds Python objects.
    """
    try:
        # Opened here, since numpy leaves a damaged file open.
        with path.open("rb") as stream:
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, np.ndarray):
                raise DataError(f"{path} is a single array; expected an .npz of named arrays.")
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise DataError(f"{path} does not exist.") from None
    except (OSError, ValueError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        reason = why_no_arrays(path, error)
        raise DataError(
            f"{path} cannot be read as an .npz file of plain arrays: {reason}"
        ) from error


def as_nchw(images: Array, where: str, layout: Layout = "auto") -> NDArray[np.uint8]:
    """Return images as uint8 (N, C, H, W), contiguous.

    Raises:
        DataError: If the type or the shape is another one, or the layout is not certain.
    """
    if images.dtype != np.uint8:
        advice = ""
        if images.dtype.kind == "f":
            advice = " From floats x in [0, 1]: np.floor(255 * x + 0.5).astype(np.uint8)."
        raise DataError(f"{where} must be uint8, 0..255; got {images.dtype}.{advice}")
    if images.ndim == 3:
        images = images[:, None]
        layout = "NCHW"
    if images.ndim != 4 or 0 in images.shape[1:]:
        raise DataError(
            f"{where} must have the shape (N, H, W, C), (N, C, H, W) or (N, H, W); "
            f"got {images.shape}."
        )
    if layout == "auto":
        layout = _layout(images.shape, where)
    if layout == "NHWC":
        images = images.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(images)


def _layout(shape: tuple[int, ...], where: str) -> Layout:
    channels_first, channels_last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if channels_first == channels_last:
        axes = "the second and the last axis" if channels_first else "neither the second nor last"
        raise DataError(
            f"the layout of {where} is ambiguous: {axes} of {shape} could be the channels "
            f"(1 or 3). Give layout, NHWC or NCHW."
        )
    return "NCHW" if channels_first else "NHWC"


def as_labels(labels: Array, where: str) -> NDArray[np.int64]:
    """Return labels as int64 (N,).

    Raises:
        DataError: If they are no integers, not of that shape, or negative.
    """
    if labels.dtype.kind not in "iu" or labels.ndim != 1:
        raise DataError(
            f"{where} must be integers 0..C-1 of shape (N,); got {labels.dtype} {labels.shape}."
        )
    if len(labels) and (labels.min() < 0 or labels.max() > np.iinfo(np.int32).max):
        raise DataError(
            f"{where} must lie in 0..C-1; they range from {labels.min()} to {labels.max()}."
        )
    return labels.astype(np.int64)


def stratified(labels: NDArray[np.int64], share: float, seed: int) -> NDArray[np.bool_]:
    """Return a mask of a share of each class, rounded; one row of a class is never drawn."""
    rng = stream(seed, "npz", "test share")
    drawn = np.zeros(len(labels), np.bool_)
    for label in np.unique(labels):
        rows = rng.permutation(np.flatnonzero(labels == label))
        count = min(int(share * len(rows) + 0.5), len(rows) - 1)
        drawn[rows[:count]] = True
    return drawn
