"""CIFAR through torchvision, in its order: the order that published indices refer to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.data import Dataset
from harness.core.errors import UsageError
from harness.core.paths import cache_dir
from harness.datasets._archive import unpacked
from harness.datasets._common import make_dataset


def load_cifar(kind: Any, root: Path | None) -> Dataset:
    """Return the dataset of a torchvision class, downloaded where it is absent.

    The download is ours (aside, checked, renamed), since torchvision leaves half a file behind
    when it is interrupted; reading, with a checksum of each file, is torchvision's.

    Args:
        kind: ``torchvision.datasets.CIFAR10`` or ``CIFAR100``.
        root: Folder that holds, or will hold, the archive and its content.
    """
    root = root or cache_dir()
    folder = unpacked(kind.url, kind.tgz_md5, root, kind.base_folder)
    try:
        train, test = (kind(root, train=part) for part in (True, False))
    except RuntimeError as error:
        raise UsageError(
            f"{folder} is damaged: {error} Move it away to have it unpacked again."
        ) from error
    return from_torchvision(train, test)


def from_torchvision(train: Any, test: Any) -> Dataset:
    """Map two datasets with ``data`` uint8 (N, H, W, C), ``targets`` and ``classes`` to ours."""
    return make_dataset(
        _channels_first(train.data), train.targets, _channels_first(test.data), test.targets,
        train.classes,
    )  # fmt: skip


def _channels_first(data: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(data.transpose(0, 3, 1, 2))
