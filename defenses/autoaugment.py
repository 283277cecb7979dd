"""AutoAugment in every epoch of training: strong augmentation as a defense."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses._auto_augment import OPERATIONS
from harness.core.data import ImageSet
from harness.core.device import on_device
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook

Step = tuple[str, float, int]

# arXiv 1805.09501, table 7: two steps of operation, probability and level (0 where it has none).
CIFAR10_POLICY: tuple[tuple[Step, Step], ...] = (
    (("Invert", 0.1, 0), ("Contrast", 0.2, 6)),
    (("Rotate", 0.7, 2), ("TranslateX", 0.3, 9)),
    (("Sharpness", 0.8, 1), ("Sharpness", 0.9, 3)),
    (("ShearY", 0.5, 8), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.5, 0), ("Equalize", 0.9, 0)),
    (("ShearY", 0.2, 7), ("Posterize", 0.3, 7)),
    (("Color", 0.4, 3), ("Brightness", 0.6, 7)),
    (("Sharpness", 0.3, 9), ("Brightness", 0.7, 9)),
    (("Equalize", 0.6, 0), ("Equalize", 0.5, 0)),
    (("Contrast", 0.6, 7), ("Sharpness", 0.6, 5)),
    (("Color", 0.7, 7), ("TranslateX", 0.5, 8)),
    (("Equalize", 0.3, 0), ("AutoContrast", 0.4, 0)),
    (("TranslateY", 0.4, 3), ("Sharpness", 0.2, 6)),
    (("Brightness", 0.9, 6), ("Color", 0.2, 8)),
    (("Solarize", 0.5, 2), ("Invert", 0.0, 0)),
    (("Equalize", 0.2, 0), ("AutoContrast", 0.6, 0)),
    (("Equalize", 0.2, 0), ("Equalize", 0.6, 0)),
    (("Color", 0.9, 9), ("Equalize", 0.6, 0)),
    (("AutoContrast", 0.8, 0), ("Solarize", 0.2, 8)),
    (("Brightness", 0.1, 3), ("Color", 0.7, 0)),
    (("Solarize", 0.4, 5), ("AutoContrast", 0.9, 0)),
    (("TranslateY", 0.9, 9), ("TranslateY", 0.7, 9)),
    (("AutoContrast", 0.9, 0), ("Solarize", 0.8, 3)),
    (("Equalize", 0.8, 0), ("Invert", 0.1, 0)),
    (("TranslateY", 0.7, 9), ("AutoContrast", 0.9, 0)),
)


@dataclass(frozen=True, slots=True)
class AutoAugmentHook:
    """Applies a random sub-policy to each image of each batch."""

    def before_epoch(
        self, epoch: int, train: ImageSet, model: nn.Module, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return all rows."""
        return np.arange(len(train), dtype=np.int64)

    def on_batch(self, x: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Return the batch, each image after the two steps of its own sub-policy."""
        policies = rng.integers(len(CIFAR10_POLICY), size=len(x))
        chances, signs = rng.random((2, len(x))), rng.choice((-1.0, 1.0), (2, len(x)))
        for step in range(2):
            steps = [CIFAR10_POLICY[policy][step] for policy in policies]
            x = apply_steps(x, steps, chances[step], signs[step])
        return x


def apply_steps(
    x: Tensor, steps: Sequence[Step], chances: NDArray[np.float64], signs: NDArray[np.float64]
) -> Tensor:
    """Return a batch after one step for each image.

    Args:
        x: Float (B, C, H, W) in [0, 1], C of 1 or 3.
        steps: Operation, probability and level for each image.
        chances: (B,) in [0, 1); the step is taken where it is below the probability.
        signs: (B,) of -1 and 1, of the strengths of operations that have a direction.
    """
    x = x.clone()
    taken = [i for i, (_, probability, _) in enumerate(steps) if chances[i] < probability]
    for name in sorted({steps[i][0] for i in taken}):
        operation = OPERATIONS[name]
        chosen = np.array([i for i in taken if steps[i][0] == name])
        strengths = np.array([operation.strength(steps[i][2]) for i in chosen])
        if operation.signed:
            strengths *= signs[chosen]
        where = on_device(torch.from_numpy(chosen), x.device)
        strength = on_device(torch.from_numpy(strengths).to(x.dtype), x.device)
        x[where] = operation.apply(x[where], strength)
    return x


@DEFENSES.register(paper="arXiv:1805.09501")
@dataclass(frozen=True, slots=True, kw_only=True)
class AutoAugment:
    """Augments every batch with the policy that AutoAugment found for CIFAR-10.

    It comes before the recipe's own flips and crops; what leaves the image is black. The
    availability table of the PureGen paper quotes Fast AutoAugment (arXiv 1905.00397), whose
    operations are these and whose policy is another, longer one.
    """

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {}

    def check(self, train: ImageSet) -> None:
        """Accept grey and colour images of at least 3 px."""
        channels, height, width = train.image_shape
        if channels not in (1, 3) or min(height, width) < 3:
            raise DataError(
                f"augmentation needs 1 or 3 channels and sides of at least 3 px; "
                f"images are {train.image_shape}."
            )

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the set itself: images change in training."""
        return train

    def hooks(self) -> Sequence[TrainingHook]:
        """Return the hook that augments."""
        return (AutoAugmentHook(),)
