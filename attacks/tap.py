"""TAP: adversarial examples of another class, kept under their own label, as training images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from attacks._diff_augment import DiffAugment
from attacks._pgd import Pgd, View, check_classes, lower_loss, mean_loss
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import stream, subseed
from harness.training import Predictor


@ATTACKS.register(paper="arXiv:2106.10807")
@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """Perturbs all training images, labels kept, until a network sees another class in them.

    An availability attack: success is lost accuracy on clean test images. What is trained on images
    that show class y + 1 under the label y learns the features of y + 1 for y. Of the published
    eight restarts this makes one, from a uniform instead of a normal draw.

    Attributes:
        surrogate: Network trained on clean images of the same classes.
        aim: ``next_class``, or ``away`` from the label, which is weaker.
        eps_255: Linf bound in grey levels.
        pgd: How images move; 250 steps of 0.05 of the bound published.
        augment: What is done to the images before each gradient.
    """

    surrogate: Predictor
    aim: Literal["next_class", "away"] = "next_class"
    eps_255: int = 8
    pgd: Pgd = field(default_factory=lambda: Pgd(steps=250, step_255=0.4, random_start=True))
    augment: DiffAugment = field(default_factory=DiffAugment)

    goal: ClassVar[Goal] = "availability"
    target_field: ClassVar[str | None] = None
    example: ClassVar[Mapping[str, Any]] = {
        "surrogate": {
            "name": "hlb_xs",
            "widths": [8, 8, 8],
            "recipe": {"epochs": 2, "lr": 0.1},
            "dataset": {"name": "shapes", "train": 120, "test": 12},
        },
        "pgd": {"steps": 4, "step_255": 4.0},
    }

    def __post_init__(self) -> None:
        if not 1 <= self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, 1..255; got {self.eps_255}.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Accept any images; the surrogate is checked when it is there."""

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that all rows may change, labels kept, within ``eps_255``."""
        return Bounds(rows=len(train), eps_255=self.eps_255, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Perturb all rows."""
        self.check(train, test)
        check_classes(self.surrogate, train)
        seed, away = subseed(rng), self.aim == "away"
        labels = train.labels if away else (train.labels + 1) % train.num_classes
        images = lower_loss(
            self.surrogate, train.images, labels, self.eps_255, self.pgd, seed,
            away=away, views=self._views(train, seed),
        )  # fmt: skip
        details = {
            "loss_before": mean_loss(self.surrogate, train.images, labels),
            "loss": mean_loss(self.surrogate, images, labels),
        }
        return PoisonedSet(train.with_images(images), train.ids, (), self.goal, details)

    def _views(self, train: ImageSet, seed: int) -> Callable[[int], View]:
        """Return, for a batch and a step, images shifted and flipped by draws of their own."""
        mean = train.images.mean((0, 2, 3), dtype=np.float64).astype(np.float32) / 255
        colour = torch.from_numpy(mean)[:, None, None]

        def of_batch(batch: int) -> View:
            def view(x: Tensor, step: int) -> Tensor:
                draws = self.augment.draw((len(x),), stream(seed, "augment", batch, step))
                seen = self.augment.apply(x, draws.to(x.device), colour.to(x))
                return seen.contiguous(memory_format=torch.channels_last)

            return view

        return of_batch
