"""LSP: a coarse pattern on every training image that tells its class, linearly separable."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks._class_patterns import add_patterns
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import stream, subseed

SEPARATION = 10.0  # half the side of the hypercube on whose corners the classes stand; published


def corners(count: int, dimensions: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return ``count`` different corners (count, dimensions) of the hypercube [-1, 1]^dimensions.

    Raises:
        DataError: If it has fewer.
    """
    if dimensions < 31 and count > 2**dimensions:
        raise DataError(
            f"{count} classes need {count} different patterns; {dimensions} squares of two "
            f"colours have {2**dimensions}. Lower patch_px."
        )
    found = np.empty((0, dimensions), np.int64)
    while len(found) < count:
        drawn = rng.integers(0, 2, (count, dimensions))
        found = np.unique(np.concatenate([found, drawn]), axis=0)
    return 2.0 * rng.permutation(found)[:count] - 1


@dataclass(frozen=True, slots=True, eq=False)
class Clusters:
    """A Gaussian cluster of features for each class.

    Attributes:
        centers: float64 (classes, D): corners of a hypercube.
        mixing: float64 (classes, D, D), by which independent features become correlated.
    """

    centers: NDArray[np.float64]
    mixing: NDArray[np.float64]

    @classmethod
    def draw(cls, classes: int, dimensions: int, rng: np.random.Generator) -> Clusters:
        """Draw the clusters: all features informative, one cluster per class."""
        centers = SEPARATION * corners(classes, dimensions, rng)
        return cls(centers, rng.uniform(-1, 1, (classes, dimensions, dimensions)))

    def sample(self, labels: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        """Return features (N, D) of rows with these labels (N,)."""
        independent = rng.standard_normal((len(labels), self.centers.shape[1]))
        features = self.centers[labels]
        for label in np.unique(labels):
            rows = labels == label
            features[rows] += independent[rows] @ self.mixing[label]
        return features


def enlarge(
    features: NDArray[np.float64], image_shape: tuple[int, int, int], patch_px: int
) -> NDArray[np.float64]:
    """Return patterns (N, C, H, W) of squares of one value each, from features (N, D)."""
    channels, height, width = image_shape
    down, across = -(-height // patch_px), -(-width // patch_px)
    small = features.reshape(-1, channels, down, across)
    return small.repeat(patch_px, 2).repeat(patch_px, 3)[:, :, :height, :width]


@ATTACKS.register(paper="arXiv:2111.00898")
@dataclass(frozen=True, slots=True, kw_only=True)
class Lsp:
    """Adds squares of colour to all training images that tell the class better than the picture.

    An availability attack without a network: success is lost accuracy on clean test images. Each
    image has a pattern of its own, drawn from its class's Gaussian cluster; a linear classifier
    tells the clusters apart, and a network need not learn more.

    Attributes:
        rms_255: Root mean square of a pattern before clipping, in grey levels. The published 6
            gives a length (L2) of 1.304 on images of 3x32x32. There is no bound on one byte.
        patch_px: Side of the squares; 8 for images of 32 pixels, 32 for 224 published.
    """

    rms_255: float = 6.0
    patch_px: int = 8

    goal: ClassVar[Goal] = "availability"
    target_field: ClassVar[str | None] = None
    example: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        if not 0 < self.rms_255 <= 255:
            raise DataError(f"rms_255 is in grey levels, in (0, 255]; got {self.rms_255}.")
        if self.patch_px < 1:
            raise DataError(f"patch_px must be at least 1; got {self.patch_px}.")

    def _dimensions(self, image_shape: tuple[int, int, int]) -> int:
        channels, height, width = image_shape
        return channels * -(-height // self.patch_px) * -(-width // self.patch_px)

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check that there are enough patterns for all classes."""
        corners(train.num_classes, self._dimensions(train.image_shape), stream(0))

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that all rows may change, labels kept; the bound is on the length of a pattern."""
        return Bounds(rows=len(train), eps_255=None, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Draw the clusters and add a pattern to every row."""
        self.check(train, test)
        seed, shape = subseed(rng), train.image_shape
        clusters = Clusters.draw(
            train.num_classes, self._dimensions(shape), stream(seed, "clusters")
        )

        def draw(labels: NDArray[np.int64], batch: int) -> NDArray[np.float64]:
            features = clusters.sample(labels, stream(seed, "patterns", batch))
            return enlarge(features, shape, self.patch_px)

        poisoned = add_patterns(train, draw, self.rms_255 / 255 * float(np.sqrt(np.prod(shape))))
        return PoisonedSet(poisoned, train.ids, (), self.goal)
