"""Augmentation of a whole batch at once, on the device the batch is on."""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from harness.core.device import on_device
from harness.core.errors import DataError


def random_flip(x: Tensor, rng: np.random.Generator) -> Tensor:
    """Mirror each image (B, C, H, W) with probability 1/2."""
    mirrored = on_device(torch.from_numpy(rng.random(len(x)) < 0.5), x.device)
    return torch.where(mirrored[:, None, None, None], x.flip(3), x)


def check_crop(pad: int, side: tuple[int, ...]) -> None:
    """Raise unless images of this height and width can be shifted over a mirrored border."""
    if not 0 <= pad < min(side):
        raise DataError(
            f"crop_pad must be at least 0 and less than a side of the images, {min(side)} px; "
            f"got {pad}."
        )


def random_crop(x: Tensor, pad: int, rng: np.random.Generator, mode: str = "reflect") -> Tensor:
    """Shift each image (B, C, H, W) by up to ``pad`` pixels each way over a padded border.

    Args:
        x: Images.
        pad: Width of the border, in pixels; below the side for ``reflect``.
        rng: Source of the shifts.
        mode: ``reflect`` or ``constant`` (zeros).
    """
    if pad == 0:
        return x
    height, width = x.shape[2:]
    padded = F.pad(x, (pad, pad, pad, pad), mode=mode)
    drawn = rng.integers(0, 2 * pad + 1, size=(2, len(x)))
    shifts = on_device(torch.from_numpy(drawn), x.device)
    rows = shifts[0][:, None] + torch.arange(height, device=x.device)
    columns = shifts[1][:, None] + torch.arange(width, device=x.device)
    image = torch.arange(len(x), device=x.device)[:, None, None]
    # Indices around the channel axis move it last: (B, H, W, C), which is channels-last in memory.
    return padded[image, :, rows[:, :, None], columns[:, None, :]].permute(0, 3, 1, 2)


def random_cutout(x: Tensor, side: int, rng: np.random.Generator) -> Tensor:
    """Paint a square of each image (B, C, H, W) over with the batch's mean colour.

    Its centre is any pixel, so that part of it may lie outside (DeVries and Taylor, arXiv
    1708.04552).

    Args:
        x: Images.
        side: Of the square, in pixels; 0 paints nothing.
        rng: Source of the places.
    """
    if side == 0:
        return x
    height, width = x.shape[2:]
    first = rng.integers(0, [[height], [width]], size=(2, len(x))) - side // 2
    top, left = on_device(torch.from_numpy(first), x.device)[:, :, None]
    rows, columns = (torch.arange(n, device=x.device) for n in (height, width))
    inside = ((rows >= top) & (rows < top + side))[:, None, :, None]
    inside = inside & ((columns >= left) & (columns < left + side))[:, None, None, :]
    return torch.where(inside, x.mean((0, 2, 3), keepdim=True), x)
