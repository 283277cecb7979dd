"""How a classifier is trained: plain numbers, part of a trial's identity."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

from harness.core.device import Precision
from harness.core.errors import DataError
from harness.core.ranges import at_least, below_one, positive


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """Optimiser, schedule and augmentation of one training.

    A study may start from a published one by name, ``recipe: {preset: scratch_80, lr: 0.05}``; what
    it gives beside the name wins.

    Attributes:
        epochs: Passes over the training rows.
        batch_size: Rows per update; the last, smaller batch of an epoch is trained on too.
        optimizer: ``sgd`` or ``adam``.
        lr: Peak learning rate, above 0.
        momentum: Of SGD; the first beta of Adam; in [0, 1).
        nesterov: Whether SGD's momentum is Nesterov's.
        weight_decay: L2 penalty; 0 is none.
        decayed: What it is on: ``all`` parameters, or ``weights`` without biases and the shifts and
            scales of normalisation.
        label_smoothing: Share of the label spread over all classes, in [0, 1).
        schedule: ``one_cycle`` (linear up over ``warmup``, linear down to 0), ``cosine`` (down
            along half a cosine instead) or ``multistep`` (times 0.1 at each of ``milestones``).
        warmup: Share of all updates in which the rate rises; not of multistep.
        milestones: Epochs from 1, ascending; multistep only. One after the last has no effect.
        flip: Mirror each image with probability 1/2.
        crop_pad: Pixels of border from which a random crop is taken; 0 is no crop.
        border: What the border shows: the image reflected, or ``black``.
        cutout: Side in pixels of a square at a random place that is painted over with the batch's
            mean colour (arXiv 1708.04552); 0 is none.
        precision: Type of activations; ``auto`` is bf16 where the hardware multiplies it.
    """

    epochs: int = 12
    batch_size: int = 64
    optimizer: Literal["sgd", "adam"] = "sgd"
    lr: float = 0.3
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    decayed: Literal["all", "weights"] = "all"
    label_smoothing: float = 0.1
    schedule: Literal["one_cycle", "cosine", "multistep"] = "one_cycle"
    warmup: float = 0.25
    milestones: tuple[int, ...] = ()
    flip: bool = True
    crop_pad: int = 4
    border: Literal["reflect", "black"] = "reflect"
    cutout: int = 0
    precision: Precision = "auto"

    presets: ClassVar[dict[str, Recipe]] = {}  # below, by name

    def __post_init__(self) -> None:
        at_least(1, epochs=self.epochs, batch_size=self.batch_size, milestones=self.milestones)
        positive(lr=self.lr)
        below_one(momentum=self.momentum, label_smoothing=self.label_smoothing, warmup=self.warmup)
        at_least(0, weight_decay=self.weight_decay, crop_pad=self.crop_pad, cutout=self.cutout)
        if any(later <= earlier for earlier, later in pairwise(self.milestones)):
            raise DataError(f"milestones must ascend; got {self.milestones}.")

    def rate(self, progress: float, epoch: int) -> float:
        """Return the learning rate after the share ``progress`` of all updates.

        >>> Recipe(lr=1.0, warmup=0.25).rate(0.25, 3)
        1.0
        >>> round(Recipe(lr=1.0, warmup=0.0, schedule="cosine").rate(1 / 3, 4), 6)
        0.75
        >>> round(Recipe(lr=1.0, schedule="multistep", milestones=(2,)).rate(0.5, 3), 6)
        0.1
        """
        if self.schedule == "multistep":
            return self.lr * 0.1 ** sum(epoch >= m for m in self.milestones)
        if progress < self.warmup:
            return self.lr * progress / self.warmup
        left = (1 - progress) / (1 - self.warmup)
        if self.schedule == "cosine":
            return self.lr * (1 - math.cos(math.pi * left)) / 2
        return self.lr * left


def _steps(epochs: int, *milestones: int, **others: Any) -> Recipe:
    return Recipe(
        epochs=epochs, schedule="multistep", milestones=milestones, label_smoothing=0.0,
        **{"batch_size": 128, "lr": 0.1, **others},
    )  # fmt: skip


_PLAIN: dict[str, Any] = {"flip": False, "crop_pad": 0}
_USUAL: dict[str, Any] = {"nesterov": False, "border": "black"}  # torch's SGD and crops

Recipe.presets |= {
    # PureGen's (arXiv 2405.18627, appendix; its configuration file). CIFAR-10 and CINIC-10 alike.
    "scratch_200": _steps(200, 100, 150, **_USUAL),
    "scratch_80": _steps(80, 30, 50, 70, **_USUAL),
    "linear_40": _steps(40, 15, 25, 35, batch_size=64, optimizer="adam", **_PLAIN),
    "fine_tune_60": _steps(60, 15, 30, 45, optimizer="adam", lr=1e-4, **_PLAIN),
    "narcissus_fine_tune_60": _steps(60, 15, 30, 45, optimizer="adam", lr=1e-4, border="black"),
    # EPIC's (arXiv 2210.09671) and FRIENDS' (arXiv 2208.10224).
    "epic_200": _steps(200, 100, 150, decayed="weights"),
    "friends_200": _steps(200, 100, 150, decayed="weights", border="black"),
    # Bullseye Polytope's own (arXiv 2005.00191).
    "linear_60": _steps(60, 30, 45, batch_size=64, optimizer="adam", weight_decay=0.0, **_PLAIN),
    # That of Narcissus' surrogate (arXiv 2204.05255, its code).
    "narcissus_200": Recipe(
        epochs=200,
        batch_size=350,
        lr=0.1,
        schedule="cosine",
        warmup=0.0,
        label_smoothing=0.0,
        **_USUAL,
    ),
    # Witches' Brew's (arXiv 2009.02276), but for its crops: it shifts by parts of pixels, over a
    # border of its mean colour.
    "brew_40": _steps(40, 14, 24, 35, border="black"),
    # The poisoning benchmark's (arXiv 2006.12557).
    "benchmark_200": _steps(200, 100, 150, weight_decay=2e-4, **_USUAL),
    "benchmark_linear_40": _steps(40, 30, lr=0.01, weight_decay=2e-4, **_USUAL),
    # AVATAR's (arXiv 2303.08500).
    "avatar_120": _steps(120, 80, 100, **_USUAL),
}
