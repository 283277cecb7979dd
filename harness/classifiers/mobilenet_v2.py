"""MobileNetV2 with strides for small images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from harness.classifiers._base import GlobalMeanPool, ImageClassifier
from harness.core.protocols import CLASSIFIERS
from harness.core.ranges import positive
from harness.core.recipe import Recipe

# Expansion, channels, blocks, stride of the first block: table 2 of the paper, whose second stage
# (and stem) halve the side of images of 224 px.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 1),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def _conv(
    inputs: int, outputs: int, kernel: int = 1, stride: int = 1, groups: int = 1, *, relu: bool
) -> list[nn.Module]:
    conv = nn.Conv2d(
        inputs, outputs, kernel, stride, padding=kernel // 2, groups=groups, bias=False
    )
    return [conv, nn.BatchNorm2d(outputs), *([nn.ReLU(inplace=True)] if relu else [])]


class _InvertedResidual(nn.Module):
    def __init__(self, inputs: int, outputs: int, expansion: int, stride: int) -> None:
        super().__init__()
        inner = expansion * inputs
        self.body = nn.Sequential(
            *_conv(inputs, inner, relu=True),
            *_conv(inner, inner, 3, stride, groups=inner, relu=True),
            *_conv(inner, outputs, relu=False),
        )
        changes = stride == 1 and inputs != outputs
        self.shortcut = nn.Sequential(*(_conv(inputs, outputs, relu=False) if changes else []))
        self.residual = stride == 1

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.body(x)
        return out + self.shortcut(x) if self.residual else out


@CLASSIFIERS.register(paper="arXiv:1801.04381")
@dataclass(frozen=True, slots=True, kw_only=True)
class MobileNetV2:
    """MobileNetV2 as used on CIFAR: 3x3 stem of stride 1, ReLU, global mean pool.

    2,296,922 parameters for 10 classes. Blocks of stride 1 that change the channels have a 1x1
    convolution beside them, which the network for ImageNet has not.

    Attributes:
        width: Factor on all channels.
        recipe: How it is trained.
    """

    width: float = 1.0
    recipe: Recipe = Recipe.presets["scratch_200"]

    example: ClassVar[Mapping[str, Any]] = {"width": 0.125}

    def __post_init__(self) -> None:
        positive(width=self.width)

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`."""

        def scaled(channels: int) -> int:
            return max(1, round(self.width * channels))

        inputs, last = scaled(32), scaled(1280)
        layers = _conv(image_shape[0], inputs, 3, relu=True)
        for expansion, channels, blocks, stride in STAGES:
            outputs = scaled(channels)
            for block in range(blocks):
                step = stride if block == 0 else 1
                layers.append(_InvertedResidual(inputs, outputs, expansion, step))
                inputs = outputs
        body = nn.Sequential(*layers, *_conv(inputs, last, relu=True), GlobalMeanPool())
        return ImageClassifier(body, nn.Linear(last, num_classes), channels=image_shape[0])
