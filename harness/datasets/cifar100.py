"""CIFAR-100."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from harness.core.data import Dataset
from harness.core.protocols import DATASETS
from harness.datasets._cifar import load_cifar


@DATASETS.register(paper="Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images")
@dataclass(frozen=True, slots=True, kw_only=True)
class Cifar100:
    """CIFAR-100: 50,000 training and 10,000 test images, 32x32, 100 fine classes.

    A row's id is its torchvision index. Downloaded (169 MB) when first used.

    Attributes:
        root: Folder that holds, or will hold, the archive and its content; None is the cache.
    """

    root: Path | None = None

    example: ClassVar[Mapping[str, Any] | None] = None

    def load(self) -> Dataset:
        """Read it, after a download where it is absent."""
        from torchvision.datasets import CIFAR100  # slow to import, and needed nowhere else

        return load_cifar(CIFAR100, self.root)
