"""JPEG compression of the training images."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook

Subsampling = Literal["4:4:4", "4:2:2", "4:2:0"]


def compress(image: NDArray[np.uint8], quality: int, subsampling: Subsampling) -> NDArray[np.uint8]:
    """Return one image (C, H, W), C of 1 or 3, after a JPEG round trip."""
    pixels = image[0] if len(image) == 1 else image.transpose(1, 2, 0)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=quality, subsampling=subsampling)
    back = np.asarray(Image.open(buffer))
    return back[None] if back.ndim == 2 else back.transpose(2, 0, 1)


@DEFENSES.register(paper="arXiv:2405.18627, section 4; arXiv:1608.00853")
@dataclass(frozen=True, slots=True, kw_only=True)
class Jpeg:
    """Encodes every training image once as JPEG and decodes it again.

    Attributes:
        quality: libjpeg quality, 1..100; the paper reports 25, 50, 75 and 85.
        subsampling: Chroma subsampling; 4:2:0 is what image libraries do unless told otherwise.
    """

    quality: int = 75
    subsampling: Subsampling = "4:2:0"

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"quality": 50}

    def __post_init__(self) -> None:
        if not 1 <= self.quality <= 100:
            raise DataError(f"quality must lie in 1..100; got {self.quality}.")

    def check(self, train: ImageSet) -> None:
        """Accept grey and colour images."""
        if train.image_shape[0] not in (1, 3):
            raise DataError(f"JPEG needs 1 or 3 channels; images are {train.image_shape}.")

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows, each compressed and decoded."""
        self.check(train)
        images = np.empty_like(train.images)
        for row, image in enumerate(train.images):
            images[row] = compress(image, self.quality, self.subsampling)
        return train.with_images(images)

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
