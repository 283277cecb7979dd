"""CINIC-10: CIFAR-10 extended by downsampled ImageNet images of the same classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.data import Dataset
from harness.core.errors import DataError
from harness.core.paths import cache_dir
from harness.core.protocols import DATASETS
from harness.datasets._archive import unpacked
from harness.datasets._common import make_dataset
from harness.datasets._images import class_folders, labelled_files, read_images


@DATASETS.register(paper="arXiv:1810.03505")
@dataclass(frozen=True, slots=True, kw_only=True)
class Cinic10:
    """CINIC-10: 90,000 training and 90,000 test images, 32x32, 10 classes.

    A row's id is its place among all images of its split, sorted by class and file name, whatever
    the part. Downloaded (688 MB) when first used.

    Attributes:
        part: ``all`` images, or only those of ``imagenet`` (70,000 of each split, disjoint from
            CIFAR-10: the generator's training set) or of ``cifar`` (20,000).
        root: Folder that holds, or will hold, the archive and its content; None is the cache.
    """

    part: Literal["all", "imagenet", "cifar"] = "all"
    root: Path | None = None

    example: ClassVar[Mapping[str, Any] | None] = None

    # Address and checksum as many public loaders have them; neither was tried from here, and the
    # publisher has since moved to new software that may answer at another address.
    url: ClassVar[str] = "https://datashare.ed.ac.uk/bitstream/handle/10283/3192/CINIC-10.tar.gz"
    md5: ClassVar[str] = "6ee4d0c996905fe93221de577967a372"
    rows: ClassVar[Mapping[str, int]] = {"train": 90_000, "test": 90_000}

    def load(self) -> Dataset:
        """Read it, after a download where it is absent."""
        folder = unpacked(self.url, self.md5, self.root or cache_dir(), "CINIC-10")
        names = class_folders(folder / "train")
        train, train_labels, train_rows = self._split(folder / "train", names)
        test, test_labels, test_rows = self._split(folder / "test", names)
        return make_dataset(train, train_labels, test, test_labels, names, train_rows, test_rows)

    def _split(
        self, folder: Path, names: list[str]
    ) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Return images, labels and places in the whole split."""
        files, labels = labelled_files(folder, names)
        if len(files) != self.rows[folder.name]:
            raise DataError(
                f"{folder} must hold {self.rows[folder.name]} images; it holds {len(files)}. "
                f"Move {folder.parent} away to have it unpacked again."
            )
        from_cifar = np.array([path.name.startswith("cifar10") for path in files])
        wanted = {"all": from_cifar | True, "imagenet": ~from_cifar, "cifar": from_cifar}
        rows = np.flatnonzero(wanted[self.part])
        return read_images([files[row] for row in rows]), labels[rows], rows
