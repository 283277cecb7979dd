"""Friendly noise: the largest change of an image that leaves a network's answer as it is."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.core.device import on_device
from harness.core.optimizers import SGD
from harness.core.pixels import to_float

LEVELS = 127  # of an int8 on each side of 0
PUBLISHED_BATCH = 128  # the published learning rate is for the mean loss over this many rows


@dataclass(frozen=True, slots=True, kw_only=True)
class FriendlySearch:
    """How friendly noise is sought.

    Attributes:
        steps: Updates of each image's noise.
        lr: Rate of SGD for the mean loss of a batch of 128, as published. The loss is a sum over
            rows here and the rate is divided by 128, which is the same and leaves a row's noise
            independent of the batch it is in.
        momentum: Nesterov momentum.
        mu: Weight of the noise's mean square against the change of the answer.
        eps_255: Linf bound of the noise, in grey levels.
        start_255: The noise starts uniform within this many grey levels.
        batch_size: Images in flight; it changes the speed alone.
    """

    steps: int = 30
    lr: float = 100.0
    momentum: float = 0.9
    mu: float = 1.0
    eps_255: float = 16.0
    start_255: float = 8.0
    batch_size: int = 512


@dataclass(frozen=True, slots=True)
class StoredNoise:
    """Noise of all rows in a byte per value.

    Attributes:
        levels: int8 (N, C, H, W), -127..127, on the device of the training.
        unit: What a level is in units of [0, 1].
    """

    levels: Tensor
    unit: float

    def of(self, rows: NDArray[np.int64]) -> Tensor:
        """Return the noise of some rows, float32 (B, C, H, W) in units of [0, 1]."""
        where = on_device(torch.from_numpy(rows), self.levels.device)
        return self.levels[where].float().mul_(self.unit)


def friendly_noise(
    model: nn.Module,
    images: NDArray[np.uint8],
    search: FriendlySearch,
    rng: np.random.Generator,
    dtype: torch.dtype = torch.float32,
) -> StoredNoise:
    """Return the friendly noise of every image.

    Source: FRIENDS (arXiv 2208.10224), algorithm 1, and its published code.

    Args:
        model: Float (B, C, H, W) in [0, 1] → logits, in evaluation mode; its weights stay.
        images: uint8 (N, C, H, W), as they are stored.
        search: Settings.
        rng: Source of the noise that the search starts from.
        dtype: Type of the network's activations.
    """
    device = next(model.parameters()).device
    eps = search.eps_255 / 255
    unit = eps / LEVELS
    levels = torch.empty(images.shape, dtype=torch.int8, device=device)
    with frozen(model):
        for begin in range(0, len(images), search.batch_size):
            part = slice(begin, begin + search.batch_size)
            x = to_float(images[part], device).contiguous(memory_format=torch.channels_last)
            # Drawn row after row on the CPU: the same numbers for any batch size and device.
            start = 2 * rng.random(x.shape, dtype=np.float32) - 1
            delta = torch.from_numpy(start).to(device).mul_(search.start_255 / 255)
            delta = delta.contiguous(memory_format=torch.channels_last)
            found = _search(model, x, delta, eps, search, dtype)
            levels[part] = found.div_(unit).round_().to(torch.int8)
    return StoredNoise(levels, unit)


def _search(
    model: nn.Module,
    x: Tensor,
    delta: Tensor,
    eps: float,
    search: FriendlySearch,
    dtype: torch.dtype,
) -> Tensor:
    def answer(images: Tensor) -> Tensor:
        with torch.autocast(x.device.type, dtype=dtype, enabled=dtype != torch.float32):
            logits = model(images)
        return F.log_softmax(logits.float(), dim=1)

    with torch.no_grad():
        wanted = answer(x)
    delta.requires_grad_()
    rate = search.lr / PUBLISHED_BATCH
    sgd = SGD([delta], lr=rate, momentum=search.momentum, nesterov=search.momentum > 0)
    for _ in range(search.steps):
        noise = delta.clamp(-eps, eps)  # delta itself is not projected, as published
        changed = answer((x + noise).clamp(0, 1))
        harm = F.kl_div(changed, wanted, reduction="sum", log_target=True)
        size = noise.square().mean((1, 2, 3)).sum()
        (delta.grad,) = torch.autograd.grad(harm - search.mu * size, delta)
        sgd.step()
    return delta.detach().clamp_(-eps, eps)


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Take a network's weights out of differentiation for a while: half of a backward pass."""
    trained = [p for p in model.parameters() if p.requires_grad]
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
