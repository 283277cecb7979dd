"""The smallest net of the hlb-CIFAR10 family, for CPUs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from harness.classifiers._base import GlobalMaxPool, ImageClassifier
from harness.core.protocols import CLASSIFIERS
from harness.core.ranges import at_least
from harness.core.recipe import Recipe


def _group(inputs: int, width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, width, 3, padding=1, bias=False),
        nn.MaxPool2d(2),
        nn.BatchNorm2d(width),
        nn.GELU(),
        nn.Conv2d(width, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.GELU(),
    )


@CLASSIFIERS.register(paper="github.com/tysam-code/hlb-CIFAR10")
@dataclass(frozen=True, slots=True, kw_only=True)
class HlbXs:
    """Three convolution groups in the manner of hlb-CIFAR10, narrow enough for a CPU.

    A 2x2 convolution, three groups that each halve the side, the global maximum, and a linear head
    whose logits are divided by 9. 147,000 parameters at the default widths.

    Attributes:
        widths: Channels of the three groups.
        stem: Channels of the first convolution. It and what reads it work at the full side of the
            image: at widths of 16, 32 and 32 a stem of 24 takes two thirds of a training's time.
        recipe: How it is trained.
    """

    widths: tuple[int, int, int] = (32, 64, 64)
    stem: int = 24
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=12, lr=0.3, batch_size=64))

    example: ClassVar[Mapping[str, Any]] = {"widths": [8, 8, 8]}

    def __post_init__(self) -> None:
        at_least(1, widths=self.widths, stem=self.stem)

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`."""
        a, b, c = self.widths
        stem = [nn.Conv2d(image_shape[0], self.stem, 2), nn.GELU()]
        groups = [_group(self.stem, a), _group(a, b), _group(b, c)]
        body = nn.Sequential(*stem, *groups, GlobalMaxPool())
        head = nn.Linear(c, num_classes, bias=False)
        return ImageClassifier(body, head, channels=image_shape[0], scale=1 / 9)
