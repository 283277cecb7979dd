"""How a classifier is trained: plain numbers, part of a trial's identity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from harness.core.device import Precision
from harness.core.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and augmentation of one training.

    Attributes:
        epochs: Passes over the training rows.
        batch_size: Rows per update; the last, smaller batch of an epoch is trained on too.
        optimizer: ``sgd`` with Nesterov momentum, or ``adam``.
        lr: Peak learning rate.
        momentum: Of SGD; the first beta of Adam.
        weight_decay: L2 penalty on all weights.
        label_smoothing: Share of the label spread over all classes, in [0, 1).
        schedule: ``one_cycle`` (linear up over ``warmup``, linear down to 0) or ``multistep``
            (times 0.1 at each of ``milestones``).
        warmup: Share of all updates in which the rate rises; one_cycle only.
        milestones: Epochs; multistep only.
        flip: Mirror each image with probability 1/2.
        crop_pad: Pixels of reflected border from which a random crop is taken; 0 is no crop.
        precision: Type of activations; ``auto`` is bf16 where the hardware multiplies it.
    """

    epochs: int = 12
    batch_size: int = 64
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.3
    momentum: float = 0.9
    weight_decay: float = 5e-4
    label_smoothing: float = 0.1
    schedule: Literal["one_cycle", "multistep"] = "one_cycle"
    warmup: float = 0.25
    milestones: tuple[int, ...] = ()
    flip: bool = True
    crop_pad: int = 4
    precision: Precision = "auto"

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1:
            raise DataError(
                "epochs and batch_size must be at least 1; "
                f"got {self.epochs} and {self.batch_size}."
            )
        if not 0 <= self.label_smoothing < 1:
            raise DataError(f"label_smoothing must lie in [0, 1); got {self.label_smoothing}.")
        if not 0 <= self.warmup < 1 or self.crop_pad < 0:
            raise DataError("warmup must lie in [0, 1), and crop_pad must not be negative.")

    def rate(self, progress: float, epoch: int) -> float:
        """Return the learning rate after the share ``progress`` of all updates.

        >>> Recipe(lr=1.0, warmup=0.25).rate(0.25, 3)
        1.0
        >>> round(Recipe(lr=1.0, schedule="multistep", milestones=(2,)).rate(0.5, 3), 6)
        0.1
        """
        if self.schedule == "multistep":
            return self.lr * 0.1 ** sum(epoch >= m for m in self.milestones)
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        return self.lr * (1 - progress) / (1 - self.warmup)
