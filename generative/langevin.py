"""Langevin dynamics on an energy: the sampler that purifies and the one that trains."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from harness.core.errors import DataError

STEP_SIZE = 1.25e-2  # in [-1, 1] units (defaults of the published purifier)
TEMPERATURE = 1e-4


class Energy(Protocol):
    """Anything with a gradient of each image's energy."""

    def input_gradient(self, x: Tensor) -> Tensor:
        """Return dE/dx, float32, of the shape of ``x`` (B, C, H, W) in [-1, 1]."""
        ...


def check_calls(steps: int, steps_per_call: int, name: str = "steps") -> None:
    """Raise unless calls of the network cover the steps.

    Raises:
        DataError: If a call covers less than one step, or the last one would go too far.
    """
    if steps_per_call < 1:
        raise DataError(f"steps_per_call must be at least 1; got {steps_per_call}.")
    if steps % steps_per_call:
        raise DataError(
            f"{name} must be a multiple of steps_per_call; got {steps} and {steps_per_call}."
        )


def langevin(
    x: Tensor,
    steps: int,
    energy: Energy,
    noise: Iterator[Tensor],
    *,
    temperature: float = TEMPERATURE,
    step_size: float = STEP_SIZE,
    steps_per_call: int = 1,
) -> Tensor:
    """Run ``x ← x - (step_size²/2) dE/dx / temperature + step_size z`` and return the last ``x``.

    No step clamps; the state stays float32 whatever the network computes in, since one step's
    noise is only about three units in the last place of a bf16 number near 1.

    With ``steps_per_call`` f above 1, one step covers the time of f: its rate is f times as high,
    its noise √f times as large, and the gradient is taken where the share c = (f - 1) / (f + 1) of
    this noise is added already (c = 1/2, at f = 3, is where Leimkuhler and Matthews take it). For
    an energy k x²/2 and the rate λ of single steps times k, the stationary variance is then
    (1 - c f λ)² / (1 - f λ / 2) times the exact one. Single steps have 1 / (1 - λ / 2), long ones
    without c the far too large 1 / (1 - f λ / 2). The choice of c is empirical: docs/defenses.md.

    Args:
        x: float32 (B, C, H, W) in [-1, 1]; not changed.
        steps: Number of steps, at least 0; a multiple of ``steps_per_call``.
        energy: Energy network.
        noise: Yields one standard normal tensor of the shape of ``x`` per call of the network.
        temperature: Divides the energy.
        step_size: Noise standard deviation per step, in units of [-1, 1].
        steps_per_call: Steps that one gradient stands for; 1 is the published sampler.

    Raises:
        DataError: If ``steps_per_call`` does not divide ``steps``.

    Source: PureGen, arXiv 2405.18627, equation 3; PureEBM, arXiv 2405.19376, equation 2; gradients
    within the noise: Leimkuhler and Matthews, Applied Mathematics Research eXpress 2013, 34-56.
    """
    check_calls(steps, steps_per_call)
    x = x.clone(memory_format=torch.channels_last)
    rate = steps_per_call * step_size**2 / (2 * temperature)
    size = steps_per_call**0.5 * step_size
    early = size * (steps_per_call - 1) / (steps_per_call + 1)
    for _ in range(steps // steps_per_call):
        z = next(noise)
        gradient = energy.input_gradient(torch.add(x, z, alpha=early) if early else x)
        x.sub_(gradient, alpha=rate).add_(z, alpha=size)
    return x
