"""Denoising diffusion: the noise schedule, one step backwards, and the samplers made of it.

Notation: abar_t is the share of an image's variance that is left after the time steps 0..t, and
noise level t means x = sqrt(abar_t) x0 + sqrt(1 - abar_t) n. Level -1 is the image itself.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn

from generative.unet import UNet, UNetConfig, for_inference
from harness.core.device import true_float32
from harness.core.errors import DataError, UsageError, nearest

TIME_STEPS = 1000
BETA_FIRST, BETA_LAST = 1e-4, 0.02  # linear in between
SamplerName = Literal["ancestral", "ddim", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_2m_sde_half"]
Start = Literal["consistent", "faithful"]


@cache
def _alpha_bars() -> tuple[float, ...]:
    betas = np.linspace(BETA_FIRST, BETA_LAST, TIME_STEPS)
    return tuple(float(a) for a in np.cumprod(1 - betas))


def alpha_bar(t: int) -> float:
    """Return abar_t for t in -1..999 (DDPM, arXiv 2006.11239, section 4: linear betas)."""
    if not -1 <= t < TIME_STEPS:
        raise DataError(f"a time step must lie in -1..{TIME_STEPS - 1}; got {t}.")
    return 1.0 if t == -1 else _alpha_bars()[t]


class DDPM(nn.Module):
    """A U-Net that predicts noise, and up to which noise level it was trained to.

    Call: see :class:`generative.unet.UNet`.

    Args:
        config: Shape of the network.
        horizon: It was trained at time steps 0..horizon-1, in 1..1000, and knows no other.
    """

    resource_kind: ClassVar[str] = "generator"

    def __init__(self, config: UNetConfig, horizon: int = 250) -> None:
        super().__init__()
        if not 1 <= horizon <= TIME_STEPS:
            raise DataError(f"horizon must lie in 1..{TIME_STEPS}; got {horizon}.")
        self.config, self.horizon = config, horizon
        self.unet = UNet(config)

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the predicted noise."""
        predicted: Tensor = self.unet(x, t)
        return predicted


class NoiseModel(Protocol):
    """What a sampler asks: the noise in images that all have the same noise level."""

    @property
    def horizon(self) -> int:
        """Time steps that may be asked for: 0..horizon-1."""
        ...

    def noise(self, x: Tensor, t: int) -> Tensor:
        """Return the standard normal noise in ``x``, float32 of its shape."""
        ...


class NoisePredictor:
    """A trained network, ready for sampling: frozen, and the time embedding of all steps done.

    Args:
        model: The network; later updates of it do not reach this object.
        dtype: Type of weights and activations; what comes back is float32.
    """

    def __init__(self, model: DDPM, dtype: torch.dtype = torch.float32) -> None:
        self.horizon, self.dtype = model.horizon, dtype
        device = model.unet.conv_in.weight.device
        with torch.no_grad():
            shifts = model.unet.shifts(torch.arange(self.horizon, device=device))
        self._unet = for_inference(model.unet, dtype)
        self._shifts = self._unet.take_biases(shifts.to(dtype))

    @torch.no_grad()
    def noise(self, x: Tensor, t: int) -> Tensor:
        """Return the noise in ``x``, float (B, C, H, W), all at time step ``t``."""
        with true_float32(self.dtype):
            predicted = self._unet.predict(x.to(self.dtype), self._shifts[t : t + 1])
        return predicted.to(torch.float32, memory_format=torch.contiguous_format)


@dataclass(frozen=True, slots=True)
class Sampler:
    """A way back along the noise levels.

    Attributes:
        eta: Share of the noise of the exact reverse process that each step adds again, in [0, 1].
        extrapolation: How far the image is extrapolated from the last two estimates of it, as a
            share of what DPM-Solver++(2M) does, in [0, 1]. Estimates along a noisy way scatter,
            and the whole of it carries that scatter into the images.
        last: Time step of the last network call: ``even`` leaves a step of the common length to be
            jumped, ``zero`` asks at the lowest noise level, as all time steps do.
    """

    eta: float
    extrapolation: float = 0.0
    last: Literal["even", "zero"] = "even"

    def __post_init__(self) -> None:
        if not (0 <= self.eta <= 1 and 0 <= self.extrapolation <= 1):
            raise DataError(f"eta and extrapolation must lie in [0, 1]; got {self}.")


SAMPLERS: dict[SamplerName, Sampler] = {
    "ancestral": Sampler(1),  # DDPM, arXiv 2006.11239, algorithm 2; variance "fixed small"
    "ddim": Sampler(0),  # arXiv 2010.02502
    "dpmpp_2m": Sampler(0, 1),  # DPM-Solver++(2M), arXiv 2211.01095, algorithm 2
    "dpmpp_2m_sde": Sampler(1, 1),  # its SDE form, appendix A
    # Ours, found by search: the one that does to images what all ancestral steps do.
    "dpmpp_2m_sde_half": Sampler(1, 0.5, "zero"),
}


@dataclass(frozen=True, slots=True)
class Coefficients:
    """One step: ``x ← image * estimate of x0 + state * x + noise * z``."""

    image: float
    state: float
    noise: float


def coefficients(t: int, to: int, eta: float) -> Coefficients:
    """Return the step from noise level ``t`` to the lower level ``to``.

    With eta 1 it is the posterior of DDPM (arXiv 2006.11239, equations 6 and 7), for whatever
    distance of the two levels; with eta 0 it is DDIM without noise (arXiv 2010.02502, equation
    12). DPM-Solver++ has the same ones at these two values, written in log sigma.

    >>> coefficients(0, -1, 1.0)
    Coefficients(image=1.0, state=0.0, noise=0.0)
    """
    high, low = alpha_bar(to), alpha_bar(t)
    noise = eta * math.sqrt((1 - high) / (1 - low) * (1 - low / high))
    state = math.sqrt(max(0.0, 1 - high - noise**2) / (1 - low))
    return Coefficients(math.sqrt(high) - state * math.sqrt(low), state, noise)


def time_grid(
    start: int, calls: int | None = None, last: Literal["even", "zero"] = "even"
) -> list[int]:
    """Return the noise levels at which the network is asked, from ``start`` down, evenly spaced.

    >>> time_grid(74, 5)
    [74, 59, 44, 29, 14]
    >>> time_grid(74, 5, "zero")
    [74, 56, 37, 18, 0]
    """
    calls = start + 1 if calls is None else calls
    if not 1 <= calls <= start + 1:
        raise DataError(
            f"network_calls must lie in 1..{start + 1}, one per time step at most; got {calls}."
        )
    length = start / max(1, calls - 1) if last == "zero" else (start + 1) / calls
    return [start - round(i * length) for i in range(calls)]


def diffuse(x0: Tensor, t: int, z: Tensor) -> Tensor:
    """Return images at noise level ``t``: x0 in [-1, 1], z standard normal of its shape."""
    level = alpha_bar(t)
    return (math.sqrt(level) * x0).add_(z, alpha=math.sqrt(1 - level))


def _log_sigma(t: int) -> float:
    return 0.5 * math.log((1 - alpha_bar(t)) / alpha_bar(t))


def denoise(
    x: Tensor,
    start: int,
    model: NoiseModel,
    noise: Iterator[Tensor],
    sampler: SamplerName | Sampler = "ancestral",
    calls: int | None = None,
) -> Tensor:
    """Return the images that a sampler finds below noisy ones, float32 in [-1, 1].

    Args:
        x: float32 (B, C, H, W) at noise level ``start``; not changed.
        start: Time step, below the horizon of the model.
        model: Network.
        noise: Yields standard normal tensors of the shape of ``x``; only a sampler with eta > 0
            takes any.
        sampler: Its name, or one made by hand.
        calls: Network calls; None is one per time step.

    Raises:
        DataError: If the model was not trained at ``start``, or there are too many calls.
        UsageError: If there is no such sampler.
    """
    if start >= model.horizon:
        raise DataError(
            f"the network was trained at time steps 0..{model.horizon - 1} (its horizon is "
            f"{model.horizon}); got {start}."
        )
    how = _sampler(sampler)
    grid = time_grid(start, calls, how.last)
    x = x.clone()
    earlier, distance = None, 0.0
    for t, to in zip(grid, [*grid[1:], -1], strict=True):
        step, level = coefficients(t, to, how.eta), alpha_bar(t)
        predicted = model.noise(x, t)
        image = torch.sub(x, predicted, alpha=math.sqrt(1 - level))
        image = image.div_(math.sqrt(level)).clamp_(-1, 1)
        best = image
        if how.extrapolation and to >= 0:
            h = _log_sigma(t) - _log_sigma(to)
            if earlier is not None:
                best = torch.lerp(earlier, image, 1 + how.extrapolation * h / (2 * distance))
            earlier, distance = image, h
        x.mul_(step.state).add_(best, alpha=step.image)
        if step.noise > 0:
            x.add_(next(noise), alpha=step.noise)
    return x


def _sampler(sampler: SamplerName | Sampler) -> Sampler:
    if isinstance(sampler, Sampler):
        return sampler
    if sampler not in SAMPLERS:
        raise UsageError(
            f"unknown sampler {sampler!r}.{nearest(sampler, SAMPLERS)} "
            f"Allowed: {', '.join(SAMPLERS)}."
        )
    return SAMPLERS[sampler]


@dataclass(frozen=True, slots=True, kw_only=True)
class Diffusion:
    """How far images are diffused, and how they come back.

    Attributes:
        steps: Time steps, at least 1; those from ``steps - 1`` down to 0 are reversed.
        sampler: How (see :data:`SAMPLERS`).
        network_calls: Time steps at which the network is asked; None is all.
        start: ``consistent`` diffuses to noise level ``steps - 1``, which the first reverse step
            expects; ``faithful`` to level ``steps``, as the published code does.
    """

    steps: int = 75
    sampler: SamplerName = "ancestral"
    network_calls: int | None = None
    start: Start = "consistent"

    def __post_init__(self) -> None:
        if not 1 <= self.steps < TIME_STEPS:
            raise DataError(f"diffusion steps must lie in 1..{TIME_STEPS - 1}; got {self.steps}.")
        time_grid(self.steps - 1, self.network_calls)

    def purify(self, x: Tensor, model: NoiseModel, noise: Iterator[Tensor]) -> Tensor:
        """Return images in [-1, 1], diffused and denoised (PureGen, arXiv 2405.18627, eq. 5).

        Args:
            x: float32 (B, C, H, W) in units of [-1, 1]; not changed.
            model: Network, of a horizon of at least ``steps``.
            noise: Yields standard normal tensors of the shape of ``x``.
        """
        level = self.steps if self.start == "faithful" else self.steps - 1
        noisy = diffuse(x, level, next(noise))
        return denoise(noisy, self.steps - 1, model, noise, self.sampler, self.network_calls)
