"""Cheap numbers that say whether a purifier purifies, before any classifier is trained."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from generative.ebm import FoldedEnergy
from generative.langevin import TEMPERATURE
from harness.core.seeds import torch_generator

PERTURBATION = 16 / 255  # in [-1, 1] units: 8/255 of the range of a byte


@dataclass(frozen=True, slots=True)
class PurifierCheck:
    """How a purifier treats clean images and small perturbations of them.

    Attributes:
        psnr: Peak signal-to-noise ratio of purified against clean images, in dB.
        retention_fine: Share of a random ±8/255 pixel pattern that survives, 0 is none.
        retention_coarse: The same for a pattern of 4x4-pixel blocks.
    """

    psnr: float
    retention_fine: float
    retention_coarse: float


def check_purifier(purify: Callable[[Tensor], Tensor], x: Tensor, seed: int = 0) -> PurifierCheck:
    """Measure a purifier on images.

    Args:
        purify: Float (B, 3, H, W) in [-1, 1] → the same, with the same noise at every call, so that
            what differs between two calls is what the perturbation left.
        x: Clean images.
        seed: Of the perturbations.
    """
    clean = purify(x)
    error = ((clean - x) / 2).square().mean((1, 2, 3))  # in [0, 1] units
    psnr = float((-10 * error.log10()).mean())
    rng = torch_generator(seed, "check")
    fine = torch.randint(0, 2, x.shape, generator=rng) * 2.0 - 1
    small = torch.randint(0, 2, (*x.shape[:2], x.shape[2] // 4, x.shape[3] // 4), generator=rng)
    coarse = F.interpolate(small * 2.0 - 1, scale_factor=4, mode="nearest")

    def retention(pattern: Tensor) -> float:
        d = PERTURBATION * pattern.to(x.device)
        return float(((purify(x + d) - clean) * d).sum() / d.square().sum())

    return PurifierCheck(psnr, retention(fine), retention(coarse))


def energy_gap(energy: FoldedEnergy, x: Tensor, noise: float = 0.1, seed: int = 0) -> float:
    """Return how much higher noisy images lie: mean of (E(x + noise z) - E(x)) / temperature.

    Args:
        energy: Energy network.
        x: Clean images, float (B, 3, H, W) in [-1, 1].
        noise: Standard deviation, in units of [-1, 1].
        seed: Of the noise.
    """
    z = torch.randn(x.shape, generator=torch_generator(seed, "gap")).to(x.device)
    return float((energy.energy(x + noise * z) - energy.energy(x)).mean() / TEMPERATURE)
