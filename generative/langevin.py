"""Langevin dynamics on an energy: the sampler that purifies and the one that trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

STEP_SIZE = 1.25e-2  # in [-1, 1] units (defaults of the published purifier)
TEMPERATURE = 1e-4


class Energy(Protocol):
    """Anything with a gradient of each image's energy."""

    def input_gradient(self, x: Tensor) -> Tensor:
        """Return dE/dx, float32, of the shape of ``x`` (B, C, H, W) in [-1, 1]."""
        ...


def langevin(
    x: Tensor,
    steps: int,
    energy: Energy,
    noise: Iterator[Tensor],
    *,
    temperature: float = TEMPERATURE,
    step_size: float = STEP_SIZE,
) -> Tensor:
    """Run ``x ← x - (step_size²/2) dE/dx / temperature + step_size z`` and return the last ``x``.

    No step clamps; the state stays float32 whatever the network computes in, since one step's
    noise is only about three units in the last place of a bf16 number near 1.

    Args:
        x: float32 (B, C, H, W) in [-1, 1]; not changed.
        steps: Number of steps, at least 0.
        energy: Energy network.
        noise: Yields one standard normal tensor of the shape of ``x`` per step.
        temperature: Divides the energy.
        step_size: Noise standard deviation per step, in units of [-1, 1].

    Source: PureGen, arXiv 2405.18627, equation 3; PureEBM, arXiv 2405.19376, equation 2.
    """
    x = x.clone(memory_format=torch.channels_last)
    rate = step_size**2 / (2 * temperature)
    for _ in range(steps):
        x.sub_(energy.input_gradient(x), alpha=rate).add_(next(noise), alpha=step_size)
    return x
