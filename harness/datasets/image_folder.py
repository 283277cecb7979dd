"""Image files in one folder per class."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from harness.core.data import Dataset
from harness.core.errors import DataError
from harness.core.protocols import DATASETS
from harness.datasets._common import make_dataset
from harness.datasets._images import Fit, class_folders, labelled_files, read_images


@DATASETS.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class ImageFolder:
    """Image files in ``train/<class>/`` and ``test/<class>/``, or in ``<class>/`` with no test set.

    A folder ``val`` stands in for ``test`` where there is none. Classes are sorted by name, files
    by path, those behind links to folders too; images are read as RGB, and as they are stored: an
    EXIF orientation turns none.

    Attributes:
        path: The folder.
        size: Side in pixels that each image gets (bilinear); None keeps their size, which must
            then be one for all.
        fit: ``squash`` the whole image into the square, or ``crop`` the largest square from its
            middle.
    """

    path: Path
    size: int | None = None
    fit: Fit = "squash"

    example: ClassVar[Mapping[str, Any] | None] = None

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise DataError(f"size must be at least 1 pixel; got {self.size}.")

    def load(self) -> Dataset:
        """Read all images."""
        train_folder, test_folder = _splits(self.path)
        names = class_folders(train_folder)
        files, labels = labelled_files(train_folder, names)
        if test_folder is None:
            images = read_images(files, self.size, self.fit)
            return make_dataset(images, labels, images[:0], labels[:0], names)
        test_names = class_folders(test_folder)
        if test_names != names:
            differ = ", ".join(sorted(set(names) ^ set(test_names)))
            raise DataError(
                f"{train_folder} and {test_folder} must have the same class folders; "
                f"only one has {differ}."
            )
        test_files, test_labels = labelled_files(test_folder, names)
        # Read together, so that a size that differs between the two is found as well.
        images = read_images(files + test_files, self.size, self.fit)
        train, test = np.split(images, [len(files)])
        return make_dataset(train, labels, test, test_labels, names)


def _splits(path: Path) -> tuple[Path, Path | None]:
    tests = [path / name for name in ("test", "val") if (path / name).is_dir()]
    if (path / "train").is_dir():
        return path / "train", tests[0] if tests else None
    if tests:
        raise DataError(f"{path} has a folder {tests[0].name!r} but no folder 'train'.")
    return path, None
