"""Shifts and flips of a batch through which gradients flow, with draws that can be used again.

The augmentation of the published Gradient Matching code (arXiv 2009.02276, section 4.3): an affine
sampling grid per image. Its shifts are of parts of a pixel, and bilinear sampling blurs; a victim
that crops by whole pixels over a reflected border is met with ``border="reflection"`` and
``whole=True``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class DiffAugment:
    """How images are shifted and flipped while poisons are crafted.

    Attributes:
        shift_px: Largest shift each way, in pixels; drawn uniformly.
        flip: Mirror with probability 1/2.
        whole: Shift by whole pixels instead of parts of them.
        border: What lies beyond the image: ``mean`` colour, as published (zeros of normalised
            images), or its ``reflection``, as this harness's own crops have it.
    """

    shift_px: float = 4.0
    flip: bool = True
    whole: bool = False
    border: Literal["mean", "reflection"] = "mean"

    def __post_init__(self) -> None:
        if self.shift_px < 0:
            raise DataError(f"shift_px must not be negative; got {self.shift_px}.")

    def draw(self, shape: tuple[int, ...], rng: np.random.Generator) -> Tensor:
        """Return draws, float32 (*shape, 3): shift in x and y, in pixels, and -1 for a mirror."""
        if self.whole:
            most = int(self.shift_px)
            shift = rng.integers(-most, most + 1, size=(*shape, 2)).astype(np.float64)
        else:
            shift = rng.uniform(-self.shift_px, self.shift_px, size=(*shape, 2))
        mirror = np.where(rng.random((*shape, 1)) < 0.5, -1.0, 1.0)
        if not self.flip:
            mirror = np.ones_like(mirror)
        return torch.from_numpy(np.concatenate([shift, mirror], -1)).float()

    def apply(self, x: Tensor, draws: Tensor, mean: Tensor) -> Tensor:
        """Return each image shifted, then mirrored.

        Args:
            x: Float (B, C, H, W).
            draws: Float (B, 3) on the same device, from :meth:`draw`.
            mean: Colour of the ``mean`` border, broadcast against ``x``.
        """
        height, width = x.shape[2:]
        # With align_corners, 2 units of the grid are side - 1 pixels.
        shift_x, shift_y = draws[:, 0] * 2 / (width - 1), draws[:, 1] * 2 / (height - 1)
        zero, one = torch.zeros_like(shift_x), torch.ones_like(shift_x)
        rows = (
            torch.stack([draws[:, 2], zero, shift_x], -1),
            torch.stack([zero, one, shift_y], -1),
        )
        grid = F.affine_grid(
            torch.stack(rows, 1).to(x.dtype), [len(x), 1, height, width], align_corners=True
        )
        if self.border == "reflection":
            return F.grid_sample(x, grid, padding_mode="reflection", align_corners=True)
        return F.grid_sample(x - mean, grid, padding_mode="zeros", align_corners=True) + mean
