"""ResNet-18 with the short recipe of the hlb-CIFAR10 family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from harness.classifiers._resnet import basic_resnet
from harness.core.protocols import CLASSIFIERS
from harness.core.ranges import at_least
from harness.core.recipe import Recipe


@CLASSIFIERS.register(paper="arXiv:2405.18627; arXiv:1512.03385")
@dataclass(frozen=True, slots=True, kw_only=True)
class ResNet18Hlb:
    """ResNet-18 trained for 25 epochs with a triangular rate and much label smoothing.

    The network is that of ``resnet18``: 11,173,962 parameters for 10 classes.

    Attributes:
        width: Channels of the stem; 64 in the published net.
        recipe: How it is trained.
    """

    width: int = 64
    recipe: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=25, batch_size=128, lr=0.2, momentum=0.9, weight_decay=5e-4,
            label_smoothing=0.2, warmup=0.2, crop_pad=4, cutout=12,
        )
    )  # fmt: skip

    example: ClassVar[Mapping[str, Any]] = {"width": 4}

    def __post_init__(self) -> None:
        at_least(1, width=self.width)

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`."""
        return basic_resnet((2, 2, 2, 2), self.width, num_classes, image_shape[0])
