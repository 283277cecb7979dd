"""Projected steps along the sign of a loss's gradient, for many images at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.pixels import add_within, to_float
from harness.core.seeds import stream
from harness.training import Predictor

View = Callable[[Tensor, int], Tensor]
"""Of images and a step's number: what the network shall see of them."""

_BATCH = 256  # images stepped together


@dataclass(frozen=True, slots=True, kw_only=True)
class Pgd:
    """How far and how often images step.

    Attributes:
        steps: Number of steps.
        step_255: Length of a step in grey levels.
        random_start: Start from a uniform draw within the bound instead of the image itself.
    """

    steps: int = 100
    step_255: float = 1.5
    random_start: bool = False

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.step_255 > 0:
            raise DataError(
                "steps must be at least 1 and step_255 above 0; "
                f"got {self.steps} and {self.step_255}."
            )


def lower_loss(
    surrogate: Predictor,
    images: NDArray[np.uint8],
    labels: NDArray[np.int64],
    eps_255: int,
    pgd: Pgd,
    seed: int,
    *,
    away: bool = False,
    views: Callable[[int], View] | None = None,
) -> NDArray[np.uint8]:
    """Return images moved until a network sees their labels in them, or no longer sees them.

    Args:
        surrogate: The network; it is not changed.
        images: uint8 (N, C, H, W).
        labels: int64 (N,), of the cross-entropy.
        eps_255: Linf bound in grey levels.
        pgd: Settings.
        seed: Source of random starts.
        away: Raise the cross-entropy instead of lowering it.
        views: Of a batch's number: what the network sees, for example augmented images.

    Returns:
        uint8 (N, C, H, W) within the bound.

    Source: projected gradient descent, Madry et al. 2018, arXiv 1706.06083, section 2.1.
    """
    model = surrogate.model.eval()
    device = next(model.parameters()).device
    moved = np.empty_like(images)
    for number, first in enumerate(range(0, len(images), _BATCH)):
        part = slice(first, first + _BATCH)
        base = to_float(images[part], device).contiguous(memory_format=torch.channels_last)
        y = torch.tensor(labels[part]).to(device)
        start = base
        if pgd.random_start:
            drawn = stream(seed, "start", number).uniform(-1, 1, images[part].shape)
            start = base + eps_255 / 255 * torch.from_numpy(drawn).to(base)
        view = views(number) if views else None
        x = descend(model, base, start, y, eps_255 / 255, pgd, surrogate.dtype, away, view)
        delta: NDArray[np.float32] = (x - base).cpu().numpy()
        moved[part] = add_within(images[part], delta, eps_255)
    return moved


def descend(
    model: nn.Module,
    base: Tensor,
    start: Tensor,
    labels: Tensor,
    eps: float,
    pgd: Pgd,
    dtype: torch.dtype = torch.float32,
    away: bool = False,
    view: View | None = None,
) -> Tensor:
    """Return (B, C, H, W) in [0, 1], within ``eps`` of ``base`` (see :func:`lower_loss`)."""
    low, high = (base - eps).clamp_(min=0), (base + eps).clamp_(max=1)
    x = start.clamp(low, high)
    length = pgd.step_255 / 255 * (1 if away else -1)
    for step in range(pgd.steps):
        x.requires_grad_()
        seen = view(x, step) if view else x
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(seen)
        # The sum: an image's gradient does not depend on how many stand beside it.
        loss = F.cross_entropy(logits.float(), labels, reduction="sum")
        (gradient,) = torch.autograd.grad(loss, [x])
        x = (x.detach() + length * gradient.sign()).clamp_(low, high)
    return x


def mean_loss(surrogate: Predictor, images: NDArray[np.uint8], labels: NDArray[np.int64]) -> float:
    """Return the mean cross-entropy of stored images with labels, for an attack's record."""
    logits = torch.from_numpy(surrogate.logits(images))
    return float(F.cross_entropy(logits, torch.tensor(labels)))


def check_classes(surrogate: Predictor, train: ImageSet) -> None:
    """Raise unless a network knows as many classes as the data have."""
    known = surrogate.logits(train.images[:1]).shape[1]
    if known != train.num_classes:
        raise DataError(f"the surrogate knows {known} classes; the data have {train.num_classes}.")
