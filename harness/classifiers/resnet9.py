"""ResNet-9 in the manner of DAWNBench entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor, nn

from harness.classifiers._base import GlobalMaxPool, ImageClassifier
from harness.core.protocols import CLASSIFIERS
from harness.core.ranges import at_least
from harness.core.recipe import Recipe


def _conv(inputs: int, width: int, *, pool: bool = False) -> nn.Sequential:
    layers = [
        nn.Conv2d(inputs, width, 3, padding=1, bias=False),
        nn.BatchNorm2d(width),
        nn.ReLU(inplace=True),
    ]
    return nn.Sequential(*layers, *([nn.MaxPool2d(2)] if pool else []))


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(_conv(width, width), _conv(width, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = x + self.body(x)
        return out


@CLASSIFIERS.register(paper="dawn.cs.stanford.edu/benchmark (D. Page, 2018)")
@dataclass(frozen=True, slots=True, kw_only=True)
class ResNet9:
    """Nine-layer residual net; at width 16 a fast surrogate on a CPU.

    Attributes:
        width: Channels of the first layer; 16 gives 413,000 parameters, 64 the original net.
        recipe: How it is trained.
    """

    width: int = 16
    recipe: Recipe = field(default_factory=lambda: Recipe(epochs=10, lr=0.3, batch_size=128))

    example: ClassVar[Mapping[str, Any]] = {"width": 4}

    def __post_init__(self) -> None:
        at_least(1, width=self.width)

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`."""
        w = self.width
        body = nn.Sequential(
            _conv(image_shape[0], w),
            _conv(w, 2 * w, pool=True),
            _Residual(2 * w),
            _conv(2 * w, 4 * w, pool=True),
            _conv(4 * w, 8 * w, pool=True),
            _Residual(8 * w),
            GlobalMaxPool(),
        )
        head = nn.Linear(8 * w, num_classes, bias=False)
        return ImageClassifier(body, head, channels=image_shape[0], scale=1 / 8)
