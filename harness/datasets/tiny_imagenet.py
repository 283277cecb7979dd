"""Tiny-ImageNet: 200 classes of ImageNet at 64x64."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.core.data import Dataset
from harness.core.errors import DataError
from harness.core.paths import cache_dir
from harness.core.protocols import DATASETS
from harness.datasets._archive import unpacked
from harness.datasets._common import make_dataset
from harness.datasets._images import class_folders, labelled_files, read_images


@DATASETS.register(paper="Le and Yang 2015, Tiny ImageNet Visual Recognition Challenge")
@dataclass(frozen=True, slots=True, kw_only=True)
class TinyImagenet:
    """Tiny-ImageNet: 100,000 training and 10,000 validation images, 64x64, 200 classes.

    The validation images are the test set, since the published test set has no labels. Classes
    are sorted by WordNet id. A row's id is its place among the sorted paths (``_0``, ``_1``,
    ``_10``, ``_100``, …), also in validation, where the annotation file has another order.
    Downloaded (248 MB) when first used.

    Attributes:
        size: Side in pixels to which each image is resized (bilinear); None keeps 64.
        root: Folder that holds, or will hold, the archive and its content; None is the cache.
    """

    size: int | None = None
    root: Path | None = None

    example: ClassVar[Mapping[str, Any] | None] = None

    # Address and checksum as many public loaders have them; neither was tried from here.
    url: ClassVar[str] = "http://cs231n.stanford.edu/tiny-imagenet-200.zip"
    md5: ClassVar[str] = "90528d7ca1a48142e341f4ef8d21d0de"
    rows: ClassVar[Mapping[str, int]] = {"train": 100_000, "val": 10_000}

    def __post_init__(self) -> None:
        if self.size is not None and self.size < 1:
            raise DataError(f"size must be at least 1 pixel; got {self.size}.")

    def load(self) -> Dataset:
        """Read it, after a download where it is absent."""
        folder = unpacked(self.url, self.md5, self.root or cache_dir(), "tiny-imagenet-200")
        names = class_folders(folder / "train")
        # Beside images/ each class folder has a list of bounding boxes.
        images = [f"{name}/images" for name in names]
        train_files, train_labels = labelled_files(folder / "train", images)
        test_files, test_labels = _validation(folder / "val", names)
        for split, files in (("train", train_files), ("val", test_files)):
            if len(files) != self.rows[split]:
                raise DataError(
                    f"{folder / split} must hold {self.rows[split]} images; it holds "
                    f"{len(files)}. Move {folder} away to have it unpacked again."
                )
        train, test = (read_images(files, self.size) for files in (train_files, test_files))
        return make_dataset(train, train_labels, test, test_labels, names)


def _validation(folder: Path, names: Sequence[str]) -> tuple[list[Path], NDArray[np.int64]]:
    """Return validation files, sorted by name, and their labels.

    Raises:
        DataError: If the annotation file is missing or damaged, or names an unknown class.
    """
    label = {name: number for number, name in enumerate(names)}
    annotations = folder / "val_annotations.txt"
    try:
        lines = sorted(annotations.read_text(encoding="utf-8").splitlines())
        # File name, WordNet id and four numbers of a box, with tabs between them.
        pairs = [line.split("\t")[:2] for line in lines]
        return (
            [folder / "images" / file for file, _ in pairs],
            np.array([label[wnid] for _, wnid in pairs], np.int64),
        )
    except (OSError, ValueError, KeyError) as error:
        raise DataError(f"{annotations} is no list of files and classes: {error}") from error
