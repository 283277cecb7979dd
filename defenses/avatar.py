"""AVATAR: images are diffused part of the way to noise, and a stochastic equation takes it away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from torch import Tensor

from defenses._purify import (
    Purifier,
    check_at_least_one,
    check_ddpm_takes,
    device_of,
    in_flight,
    purify_images,
)
from generative.ddpm import DDPM, TIME_STEPS, Diffusion, NoiseModel, NoisePredictor, diffuse
from harness.core.data import ImageSet
from harness.core.device import Precision, pick_dtype
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook
from harness.core.seeds import subseed

BETA_LOW, BETA_HIGH = 0.1, 20.0  # b(t) = low + (high - low) t, with t in [0, 1]
LAST_TIME = 1e-5  # where the equation ends: at 0 its score is infinite


def beta(t: float) -> float:
    """Return the rate b(t) at which noise comes in, t in [0, 1].

    >>> beta(0.0)
    0.1
    """
    return BETA_LOW + (BETA_HIGH - BETA_LOW) * t


def deviation(t: float) -> float:
    """Return the standard deviation of the noise at time t in [0, 1]: 0 at 0, near 1 at 1."""
    return math.sqrt(-math.expm1(-BETA_LOW * t - 0.5 * (BETA_HIGH - BETA_LOW) * t * t))


def reverse_sde(x: Tensor, steps: int, model: NoiseModel, noise: Iterator[Tensor]) -> Tensor:
    """Return where the reverse variance-preserving equation leads, float32, not clamped.

    Going down in time, ``x ← x + b(t) (x/2 + score) dt + sqrt(b(t) dt) z`` with the score
    ``-noise(x, t) / deviation(t)``, by Euler and Maruyama in steps of 1/1000, as published; the
    last one ends at 1e-5, and adds its noise too.

    The network knows whole time steps 0..horizon-1 only. Its step i has the noise of the time
    (i + 1) / 1000, within 5 % at i = 0 and 1 % from i = 50 on; so it is asked for the step
    ``1000 t - 1``, which is whole at every t of this grid.

    Args:
        x: float32 (B, C, H, W) at noise level ``steps - 1``; not changed.
        steps: Where it starts: the time ``steps / 1000``.
        model: Network, of a horizon of at least ``steps``.
        noise: Yields one standard normal tensor of the shape of ``x`` per step.

    Raises:
        DataError: If the network was not trained at these noise levels.

    Source: DiffPure, arXiv 2205.07460, section 3; the equation is 6 with 11 of arXiv 2011.13456.
    """
    if not 1 <= steps <= model.horizon:
        raise DataError(
            f"steps must lie in 1..{model.horizon}, the network's horizon; got {steps}."
        )
    x = x.clone()
    for index in range(steps - 1, -1, -1):
        t = (index + 1) / TIME_STEPS
        dt = t - max(index / TIME_STEPS, LAST_TIME)
        rate = beta(t) * dt
        predicted = model.noise(x, index)
        x.mul_(1 + rate / 2).sub_(predicted, alpha=rate / deviation(t))
        x.add_(next(noise), alpha=math.sqrt(rate))
    return x


@DEFENSES.register(paper="arXiv:2303.08500, arXiv:2205.07460")
@dataclass(frozen=True, slots=True, kw_only=True)
class Avatar:
    """Purifies every training image with DiffPure's reverse stochastic differential equation.

    An image is diffused to ``steps`` thousandths of the way to noise and led back; it is meant for
    availability attacks, and made for networks that know all 1000 noise levels. No estimate of the
    image is clamped on the way, and the last step leaves its noise, about 1.4 grey levels, in the
    image: the differences to the defense ``puregen_ddpm`` with the same network. Test images are
    not purified: it is a train-time defense.

    Attributes:
        ddpm: Noise predictor, trained on data disjoint from the defended set. The published one
            knows continuous times; this one is asked at whole time steps (see
            :func:`reverse_sde`).
        steps: Time steps, and network calls: t* = 100 for CIFAR-10 in the paper, 60 in APBench; at
            most its horizon.
        precision: Type the network computes in; the state stays float32.
        batch_size: Images in flight, as many as are given; None as many as suit the device and fit
            in its memory. It changes the speed alone.
    """

    ddpm: DDPM
    steps: int = 100
    precision: Precision = "auto"
    batch_size: int | None = None

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {
        "ddpm": {
            "name": "ddpm",
            "unet": {
                "block_out_channels": [8, 16, 16],
                "norm_num_groups": 4,
                "attention_head_dim": 8,
            },
            "recipe": {"iterations": 4, "batch_size": 8, "horizon": 30},
            "dataset": {"name": "shapes", "kind": "pood", "train": 48, "test": 6},
        },
        "steps": 5,
    }

    def __post_init__(self) -> None:
        check_at_least_one(batch_size=self.batch_size)
        Diffusion(steps=self.steps)

    def check(self, train: ImageSet) -> None:
        """Check that the network can take these images, and was trained up to these steps."""
        check_ddpm_takes(self.ddpm, Diffusion(steps=self.steps), train)

    def _purifier(self) -> Purifier:
        model = NoisePredictor(self.ddpm, pick_dtype(self.precision, device_of(self.ddpm)))

        def purify(x: Tensor, noise: Iterator[Tensor]) -> Tensor:
            noisy = diffuse(x, self.steps - 1, next(noise))
            return reverse_sde(noisy, self.steps, model, noise)

        return purify

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows with purified pixels."""
        self.check(train)
        images = purify_images(
            train.images, train.ids, self._purifier(), subseed(rng),
            batch_size=in_flight(self.batch_size, train.image_shape, self.ddpm),
            device=device_of(self.ddpm),
        )  # fmt: skip
        return train.with_images(images)

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
