"""FRIENDS: friendly noise, once per image, and random noise, each time it is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses._friendly_noise import FriendlySearch, StoredNoise, friendly_noise
from defenses._random_noise import Noise, add_noise
from harness.core.data import ImageSet
from harness.core.device import Precision, pick_dtype, true_float32
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook


@DEFENSES.register(paper="arXiv:2208.10224")
@dataclass(frozen=True, slots=True, kw_only=True)
class Friends:
    """Adds the largest noise that the victim does not mind to each image, and random noise.

    Random noise is added from the first epoch on, anew each time an image is seen. Before
    ``begin_epoch`` the victim of that moment, in evaluation mode, gives every stored image its
    friendly noise, which stays. An image is clamped to [0, 1] after friendly noise and, as in the
    published code, not after random noise. The victim's augmentation follows.

    PureGen ran it with ``steps`` 20 and ``mu`` 16. A training that ends before ``begin_epoch`` has
    random noise only.

    Attributes:
        begin_epoch: Epoch, counted from 0, before which friendly noise is made; 0 for transfer.
        noise: ``bernoulli`` (plus or minus eps), ``gaussian`` (standard deviation eps), ``uniform``
            (from -eps to eps) or ``none``.
        eps_255: Size of the random noise in grey levels.
        friendly_eps_255: Largest friendly noise in grey levels.
        steps: Updates of each image's friendly noise.
        lr: Their rate, for a batch of 128 as published; other batch sizes give the same.
        momentum: Nesterov momentum of these.
        mu: Weight of the noise's mean square against the change of the victim's answer.
        start_255: Friendly noise starts uniform within this many grey levels.
        batch_size: Images in flight when it is made; it changes the speed alone.
        precision: Type of the network's activations when it is made.
    """

    begin_epoch: int = 5
    noise: Noise | Literal["none"] = "bernoulli"
    eps_255: float = 8.0
    friendly_eps_255: float = 16.0
    steps: int = 30
    lr: float = 100.0
    momentum: float = 0.9
    mu: float = 1.0
    start_255: float = 8.0
    batch_size: int = 512
    precision: Precision = "auto"

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"begin_epoch": 0, "steps": 2}

    def __post_init__(self) -> None:
        if min(self.steps, self.batch_size) < 1 or self.begin_epoch < 0:
            raise DataError(
                "steps and batch_size must be at least 1 and begin_epoch not negative; "
                f"got {self.steps}, {self.batch_size} and {self.begin_epoch}."
            )
        if not (0 < self.eps_255 <= 255 and 0 < self.friendly_eps_255 <= 255):
            raise DataError(
                "eps_255 and friendly_eps_255 are in grey levels, in (0, 255]; "
                f"got {self.eps_255} and {self.friendly_eps_255}."
            )
        if self.lr <= 0 or not 0 <= self.momentum < 1 or self.mu < 0 or self.start_255 < 0:
            raise DataError(
                "lr must be positive, momentum lie in [0, 1), mu and start_255 not be negative; "
                f"got {self.lr}, {self.momentum}, {self.mu} and {self.start_255}."
            )

    @property
    def search(self) -> FriendlySearch:
        """How friendly noise is sought."""
        return FriendlySearch(
            steps=self.steps, lr=self.lr, momentum=self.momentum, mu=self.mu,
            eps_255=self.friendly_eps_255, start_255=self.start_255, batch_size=self.batch_size,
        )  # fmt: skip

    def check(self, train: ImageSet) -> None:
        """Accept any data."""

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the set itself; noise is added during training."""
        return train

    def hooks(self) -> Sequence[TrainingHook]:
        """Return a fresh hook, which keeps the friendly noise of one training."""
        return (_Noisy(self),)


class _Noisy:
    """One training's friendly noise, once it is made, and its random noise."""

    def __init__(self, settings: Friends) -> None:
        self.settings = settings
        self.friendly: StoredNoise | None = None

    def before_epoch(
        self, epoch: int, train: ImageSet, model: nn.Module, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Make the friendly noise when it is time; return all rows."""
        if self.friendly is None and epoch >= self.settings.begin_epoch:
            dtype = pick_dtype(self.settings.precision, next(model.parameters()).device)
            search = self.settings.search
            with true_float32(dtype):
                self.friendly = friendly_noise(model, train.images, search, rng, dtype)
        return np.arange(len(train), dtype=np.int64)

    def on_batch(self, x: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Return the batch with friendly noise, clamped, and random noise, not clamped."""
        if self.friendly is not None:
            x = self.friendly.of(rows).add_(x).clamp_(0, 1)
        if self.settings.noise == "none":
            return x
        return add_noise(x, self.settings.noise, self.settings.eps_255 / 255, rng)
