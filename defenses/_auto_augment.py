"""AutoAugment's operations on a batch, each image with a strength of its own.

The published ones work on one image; here all images that get an operation go through it at once.
Images are float (B, C, H, W) in [0, 1], C of 1 or 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

_LUMINANCE = (0.2989, 0.587, 0.114)
LEVELS = 10


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation and the scale of its strength.

    Attributes:
        apply: Images (B, C, H, W) and strengths (B,) → images.
        lowest, highest: Strength at level 0 and at level 9; linear in between.
        signed: Whether the strength is as often negative.
    """

    apply: Callable[[Tensor, Tensor], Tensor]
    lowest: float = 0.0
    highest: float = 0.0
    signed: bool = False

    def strength(self, level: int) -> float:
        """Return the strength of a level, 0..9."""
        return self.lowest + (self.highest - self.lowest) * level / (LEVELS - 1)


def _affine(x: Tensor, rows: tuple[Tensor, ...]) -> Tensor:
    """Take each pixel from where a 2x3 matrix says, nearest neighbour, black outside.

    Args:
        x: Images.
        rows: The six entries, each (B,), in pixels from the centre: x and y of the source.
    """
    height, width = x.shape[2:]
    matrix = torch.stack(rows, 1).view(-1, 2, 3)
    sides = matrix.new_tensor([width, height])
    # affine_grid counts in half sides.
    linear = matrix[:, :, :2] * sides / sides[:, None]
    shift = 2 * matrix[:, :, 2:] / sides[:, None]
    grid = F.affine_grid(torch.cat([linear, shift], 2), list(x.shape), align_corners=False)
    return F.grid_sample(x, grid, mode="nearest", padding_mode="zeros", align_corners=False)


def _shear_x(x: Tensor, strength: Tensor) -> Tensor:
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _affine(x, (one, strength, strength * x.shape[2] / 2, zero, one, zero))


def _shear_y(x: Tensor, strength: Tensor) -> Tensor:
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _affine(x, (one, zero, zero, strength, one, strength * x.shape[3] / 2))


def _translate_x(x: Tensor, strength: Tensor) -> Tensor:
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _affine(x, (one, zero, -(strength * x.shape[3]).trunc(), zero, one, zero))


def _translate_y(x: Tensor, strength: Tensor) -> Tensor:
    one, zero = torch.ones_like(strength), torch.zeros_like(strength)
    return _affine(x, (one, zero, zero, zero, one, -(strength * x.shape[2]).trunc()))


def _rotate(x: Tensor, strength: Tensor) -> Tensor:
    angle, zero = strength * (math.pi / 180), torch.zeros_like(strength)
    return _affine(x, (angle.cos(), -angle.sin(), zero, angle.sin(), angle.cos(), zero))


def _blend(base: Tensor, x: Tensor, strength: Tensor) -> Tensor:
    """Return the images, further from ``base`` where the strength is positive, else nearer."""
    return torch.lerp(base, x, 1 + strength[:, None, None, None]).clamp(0, 1)


def _grey(x: Tensor) -> Tensor:
    if x.shape[1] == 1:
        return x
    return (x * x.new_tensor(_LUMINANCE).view(1, 3, 1, 1)).sum(1, keepdim=True)


def _brightness(x: Tensor, strength: Tensor) -> Tensor:
    return _blend(torch.zeros_like(x), x, strength)


def _color(x: Tensor, strength: Tensor) -> Tensor:
    return _blend(_grey(x).expand_as(x), x, strength)


def _contrast(x: Tensor, strength: Tensor) -> Tensor:
    return _blend(_grey(x).mean((1, 2, 3), keepdim=True).expand_as(x), x, strength)


def _sharpness(x: Tensor, strength: Tensor) -> Tensor:
    channels = x.shape[1]
    kernel = x.new_ones(channels, 1, 3, 3)
    kernel[:, :, 1, 1] = 5
    smooth = x.clone()  # the border stays as it is
    smooth[:, :, 1:-1, 1:-1] = F.conv2d(x, kernel / 13, groups=channels)
    return _blend(smooth, x, strength)


def _posterize(x: Tensor, strength: Tensor) -> Tensor:
    step = (2 ** (8 - strength.round()))[:, None, None, None]
    return ((x * 255).round() / step).floor() * step / 255


def _solarize(x: Tensor, strength: Tensor) -> Tensor:
    # Halfway below the first stored value that is turned, so that rounding cannot decide.
    first = (strength * 255 - 1e-3).ceil()[:, None, None, None]
    return torch.where(x * 255 > first - 0.5, 1 - x, x)


def _auto_contrast(x: Tensor, strength: Tensor) -> Tensor:
    lowest, highest = x.amin((2, 3), keepdim=True), x.amax((2, 3), keepdim=True)
    span = highest - lowest
    return torch.where(span > 0, (x - lowest) / span.clamp(min=1 / 255), x)


def _equalize(x: Tensor, strength: Tensor) -> Tensor:
    """Spread each channel's values over all levels, as image libraries do, in whole numbers."""
    levels = (x * 255).round().long().flatten(2)
    counts = levels.new_zeros(*levels.shape[:2], 256)
    counts.scatter_add_(2, levels, torch.ones_like(levels))
    highest = counts.gather(2, levels.amax(2, keepdim=True))
    step = (levels.shape[2] - highest) // 255
    below = counts.cumsum(2) - counts
    table = ((below + step // 2) // step.clamp(min=1)).clamp(max=255)
    spread = torch.where(step > 0, table.gather(2, levels), levels)
    return spread.view_as(x).to(x.dtype) / 255


def _invert(x: Tensor, strength: Tensor) -> Tensor:
    return 1 - x


OPERATIONS: Mapping[str, Operation] = {
    "ShearX": Operation(_shear_x, 0, 0.3, True),
    "ShearY": Operation(_shear_y, 0, 0.3, True),
    "TranslateX": Operation(_translate_x, 0, 150 / 331, True),  # shares of the side
    "TranslateY": Operation(_translate_y, 0, 150 / 331, True),
    "Rotate": Operation(_rotate, 0, 30, True),  # degrees, counter-clockwise
    "Brightness": Operation(_brightness, 0, 0.9, True),
    "Color": Operation(_color, 0, 0.9, True),
    "Contrast": Operation(_contrast, 0, 0.9, True),
    "Sharpness": Operation(_sharpness, 0, 0.9, True),
    "Posterize": Operation(_posterize, 8, 4),  # bits
    "Solarize": Operation(_solarize, 1, 0),  # threshold
    "AutoContrast": Operation(_auto_contrast),
    "Equalize": Operation(_equalize),
    "Invert": Operation(_invert),
}
