"""ResNet-34 with the stem for small images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn

from harness.classifiers._resnet import basic_resnet
from harness.core.protocols import CLASSIFIERS
from harness.core.ranges import at_least
from harness.core.recipe import Recipe


@CLASSIFIERS.register(paper="arXiv:1512.03385")
@dataclass(frozen=True, slots=True, kw_only=True)
class ResNet34:
    """ResNet-34 with a 3x3 stem of stride 1: the paper's net for Tiny-ImageNet.

    21,282,122 parameters for 10 classes. The mean over all positions precedes the head at every
    image size; the published code pools 4x4 blocks, which at 64 px gives its head 2,048 features.

    Attributes:
        width: Channels of the stem; 64 in the published net.
        recipe: How it is trained.
    """

    width: int = 64
    recipe: Recipe = Recipe.presets["scratch_200"]

    example: ClassVar[Mapping[str, Any]] = {"width": 4}

    def __post_init__(self) -> None:
        at_least(1, width=self.width)

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`."""
        return basic_resnet((3, 4, 6, 3), self.width, num_classes, image_shape[0])
