"""DenseNet-121 with the stem for small images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from harness.classifiers._base import GlobalMeanPool, ImageClassifier
from harness.core.errors import DataError
from harness.core.protocols import CLASSIFIERS
from harness.core.ranges import at_least
from harness.core.recipe import Recipe


def _norm_relu_conv(inputs: int, outputs: int, kernel: int) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, kernel, padding=kernel // 2, bias=False)
    return [nn.BatchNorm2d(inputs), nn.ReLU(inplace=True), conv]


class _DenseLayer(nn.Module):
    """Adds ``growth`` channels in front of those it is given."""

    def __init__(self, inputs: int, growth: int) -> None:
        super().__init__()
        inner = 4 * growth
        self.body = nn.Sequential(
            *_norm_relu_conv(inputs, inner, 1), *_norm_relu_conv(inner, growth, 3)
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([self.body(x), x], 1)


@CLASSIFIERS.register(paper="arXiv:1608.06993")
@dataclass(frozen=True, slots=True, kw_only=True)
class DenseNet121:
    """DenseNet-121 as used on CIFAR: 3x3 stem of stride 1, no max-pool, global mean pool.

    6,956,298 parameters for 10 classes. Layers of a 1x1 and a 3x3 convolution; between the blocks
    a 1x1 convolution halves the channels and a mean pool the side.

    Attributes:
        growth: Channels that each layer adds; 32 in the published net.
        blocks: Layers of each of the blocks.
        recipe: How it is trained.
    """

    growth: int = 32
    blocks: tuple[int, ...] = (6, 12, 24, 16)
    recipe: Recipe = Recipe.presets["scratch_200"]

    example: ClassVar[Mapping[str, Any]] = {"growth": 4, "blocks": [1, 2, 2]}

    def __post_init__(self) -> None:
        at_least(1, growth=self.growth, blocks=self.blocks)
        if not self.blocks:
            raise DataError("blocks must have at least one entry; got ().")

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`."""
        width = 2 * self.growth
        layers: list[nn.Module] = [nn.Conv2d(image_shape[0], width, 3, padding=1, bias=False)]
        for index, count in enumerate(self.blocks):
            if index:
                layers += [*_norm_relu_conv(width, width // 2, 1), nn.AvgPool2d(2)]
                width //= 2
            for _ in range(count):
                layers.append(_DenseLayer(width, self.growth))
                width += self.growth
        body = nn.Sequential(
            *layers, nn.BatchNorm2d(width), nn.ReLU(inplace=True), GlobalMeanPool()
        )
        return ImageClassifier(body, nn.Linear(width, num_classes), channels=image_shape[0])
