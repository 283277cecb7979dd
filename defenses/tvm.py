"""Total variance minimisation: an image is drawn again from a random third of its pixels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.core.data import ImageSet
from harness.core.device import pick_device
from harness.core.errors import DataError
from harness.core.pixels import to_bytes, to_float
from harness.core.protocols import DEFENSES, TrainingHook
from harness.core.seeds import subseed

# Always so many rows at once, the last ones filled up: the order in which a device sums may depend
# on the size of a batch, and no row's bytes shall.
_BATCH = 128
_TINY = 1e-12  # of a squared norm: where it is zero, so is its gradient


def row_masks(
    seed: int, ids: NDArray[np.int64], image_shape: tuple[int, int, int], keep: float
) -> NDArray[np.bool_]:
    """Return bool (N, C, H, W), true with probability ``keep``; a row's from seed and id alone."""
    masks = np.empty((len(ids), *image_shape), np.bool_)
    for mask, row_id in zip(masks, ids, strict=True):
        source = np.random.Generator(np.random.SFC64([seed, int(row_id)]))
        np.less(source.random(image_shape, np.float32), np.float32(keep), out=mask)
    return masks


def objective(z: Tensor, x: Tensor, mask: Tensor, weight: float) -> tuple[Tensor, Tensor]:
    """Return what is minimised per channel, and its gradient.

    The norm of ``mask * (z - x)``, plus ``weight`` times the sum over neighbouring rows, and over
    neighbouring columns, of the norm of their difference (arXiv 1711.00117, section 3.3, p = 2).

    Args:
        z: Candidate, float (B, C, H, W).
        x: Image in [0, 1].
        mask: 1 where a pixel counts, else 0.
        weight: Of the total variation.

    Returns:
        Values (B, C) and gradient (B, C, H, W).
    """
    off = mask * (z - x)
    off_norm = (off.square().sum((2, 3), keepdim=True) + _TINY).sqrt()
    rows, columns = z.diff(dim=2), z.diff(dim=3)
    row_norms = (rows.square().sum(3, keepdim=True) + _TINY).sqrt()
    column_norms = (columns.square().sum(2, keepdim=True) + _TINY).sqrt()
    value = off_norm.sum((2, 3)) + weight * (row_norms.sum((2, 3)) + column_norms.sum((2, 3)))
    gradient = off / off_norm
    rows, columns = rows * (weight / row_norms), columns * (weight / column_norms)
    gradient[:, :, 1:] += rows
    gradient[:, :, :-1] -= rows
    gradient[..., 1:] += columns
    gradient[..., :-1] -= columns
    return value, gradient


def minimise(x: Tensor, mask: Tensor, weight: float, steps: int, lr: float) -> Tensor:
    """Return images after so many steps of Adam from ``x``; each pixel has its own step size.

    Args:
        x: Images in [0, 1], float (B, C, H, W).
        mask: See :func:`objective`.
        weight: Of the total variation.
        steps: Steps; the rate falls linearly to 0.
        lr: Rate of the first step, in units of [0, 1].
    """
    z, first, second = x.clone(), torch.zeros_like(x), torch.zeros_like(x)
    for step in range(steps):
        _, gradient = objective(z, x, mask, weight)
        first.lerp_(gradient, 0.1)
        second.lerp_(gradient.square_(), 0.001)
        scale = (second / (1 - 0.999 ** (step + 1))).sqrt_().add_(1e-8)
        rate = lr * (1 - step / steps) / (1 - 0.9 ** (step + 1))
        z.addcdiv_(first, scale, value=-rate)
    return z


@DEFENSES.register(paper="arXiv:1711.00117")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tvm:
    """Smooths every training image while a random third of its pixels holds on to it.

    Per channel it lowers the distance to the kept pixels plus the total variation. With the usual
    weight the true minimum is close to one flat colour: what counts is how far the steps go. The
    defaults reach the value, and the 20 dB, that the usual ten iterations of L-BFGS-B do.

    Attributes:
        keep: Probability that a pixel is kept, in (0, 1].
        weight: Of the total variation, lambda in the paper.
        steps: Steps of gradient descent (Adam).
        lr: Rate of the first step, in units of [0, 1]; it falls linearly to 0.
    """

    keep: float = 0.3
    weight: float = 0.5
    steps: int = 50
    lr: float = 0.01

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"steps": 5}

    def __post_init__(self) -> None:
        if not 0 < self.keep <= 1:
            raise DataError(f"keep is a probability in (0, 1]; got {self.keep}.")
        if self.steps < 1 or self.weight <= 0 or self.lr <= 0:
            raise DataError(
                "steps must be at least 1, weight and lr positive; "
                f"got {self.steps}, {self.weight}, {self.lr}."
            )

    def check(self, train: ImageSet) -> None:
        """Accept images with neighbours."""
        if min(train.image_shape[1:]) < 2:
            raise DataError(f"total variation needs two rows and columns; {train.image_shape}.")

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows, smoothed."""
        self.check(train)
        device, seed = pick_device(), subseed(rng)
        images = np.empty_like(train.images)
        for start in range(0, len(train), _BATCH):
            part = np.arange(start, start + _BATCH) % len(train)
            masks = row_masks(seed, train.ids[part], train.image_shape, self.keep)
            mask = torch.from_numpy(masks).to(device).float()
            x = to_float(train.images[part], device)
            smooth = to_bytes(minimise(x, mask, self.weight, self.steps, self.lr))
            images[start : start + _BATCH] = smooth[: len(train) - start]
        return train.with_images(images)

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
