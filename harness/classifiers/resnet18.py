"""ResNet-18 with the stem for small images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import nn
from torchvision.models import resnet18

from harness.classifiers._base import ImageClassifier
from harness.core.protocols import CLASSIFIERS
from harness.core.recipe import Recipe


@CLASSIFIERS.register(paper="arXiv:1512.03385")
@dataclass(frozen=True, slots=True, kw_only=True)
class ResNet18:
    """ResNet-18 as used on CIFAR: 3x3 stem of stride 1, no max-pool, global mean pool.

    11,173,962 parameters for 10 classes. The default recipe is that of PureGen (arXiv 2405.18627).
    The weights start as PyTorch's layers do, as in PureGen; torchvision's start by fan-out.

    Attributes:
        recipe: How it is trained.
    """

    recipe: Recipe = Recipe.presets["scratch_200"]

    example: ClassVar[Mapping[str, Any]] = {"recipe": {"epochs": 1}}

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`."""
        net = resnet18(num_classes=num_classes)
        net.conv1 = nn.Conv2d(image_shape[0], 64, 3, padding=1, bias=False)
        net.maxpool = nn.Identity()
        for module in net.modules():
            if isinstance(module, nn.Conv2d):
                module.reset_parameters()
        head = net.fc
        net.fc = nn.Identity()
        return ImageClassifier(net, head, channels=image_shape[0])
