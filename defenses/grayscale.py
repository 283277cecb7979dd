"""Grayscale: what an attack writes into colours is gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook

_BATCH = 512
# ITU-R BT.601 weights 0.299, 0.587, 0.114 in units of 1/65536, as image libraries have them.
_WEIGHTS = (19595, 38470, 7471)


def luminance(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return uint8 (N, 1, H, W), rounded, of colour images (N, 3, H, W)."""
    grey = np.full((len(images), 1, *images.shape[2:]), 1 << 15, np.uint32)
    for channel, weight in enumerate(_WEIGHTS):
        grey += np.uint32(weight) * images[:, channel : channel + 1]
    return (grey >> 16).astype(np.uint8)


@DEFENSES.register(paper="arXiv:2301.13838")
@dataclass(frozen=True, slots=True, kw_only=True)
class Grayscale:
    """Gives every training image three equal channels, its luminance.

    Part of image shortcut squeezing; strong against availability attacks that work with colours.
    """

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {}

    def check(self, train: ImageSet) -> None:
        """Accept colour images."""
        if train.image_shape[0] != 3:
            raise DataError(f"grayscale needs 3 channels; images are {train.image_shape}.")

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows without colour."""
        self.check(train)
        images = np.empty_like(train.images)
        for start in range(0, len(train), _BATCH):
            part = slice(start, start + _BATCH)
            images[part] = luminance(train.images[part])
        return train.with_images(images)

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
