"""Random noise on every image each time it is trained on: what friendly noise is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses._random_noise import Noise, add_noise
from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook


@DEFENSES.register(paper="arXiv:2208.10224")
@dataclass(frozen=True, slots=True, kw_only=True)
class RandomNoise:
    """Adds fresh random noise to every training image each time it is seen.

    Values are not clamped to [0, 1] afterwards, as in the published code of FRIENDS.

    Attributes:
        noise: ``bernoulli`` (plus or minus eps), ``gaussian`` (standard deviation eps) or
            ``uniform`` (from -eps to eps).
        eps_255: Size of the noise in grey levels.
    """

    noise: Noise = "bernoulli"
    eps_255: float = 8.0

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        if not 0 < self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, in (0, 255]; got {self.eps_255}.")

    def check(self, train: ImageSet) -> None:
        """Accept any data."""

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the set itself; noise is added during training."""
        return train

    def hooks(self) -> Sequence[TrainingHook]:
        """Return a hook."""
        return (_Noisy(self),)


@dataclass(frozen=True, slots=True)
class _Noisy:
    settings: RandomNoise

    def before_epoch(
        self, epoch: int, train: ImageSet, model: nn.Module, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return all rows."""
        return np.arange(len(train), dtype=np.int64)

    def on_batch(self, x: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Return the batch with noise."""
        return add_noise(x, self.settings.noise, self.settings.eps_255 / 255, rng)
