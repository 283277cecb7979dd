"""The small net of PureGen's hlb-CIFAR10 family."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import nn

from harness.classifiers._hlb import decoupled_recipe, hlb_net
from harness.core.protocols import CLASSIFIERS
from harness.core.ranges import at_least
from harness.core.recipe import Recipe


@CLASSIFIERS.register(paper="arXiv:2405.18627; github.com/KellerJordan/cifar10-airbench")
@dataclass(frozen=True, slots=True, kw_only=True)
class HlbS:
    """Learned 2x2 stem and three groups of two convolutions, 64, 256 and 256 channels wide.

    1,972,816 weights for 10 classes, of which 1,176 are scales of batch normalisation that stay 1.
    The recipe is the paper's without the higher rate of the normalisation's shifts.

    Attributes:
        widths: Channels of the three groups.
        recipe: How it is trained.
    """

    widths: tuple[int, int, int] = (64, 256, 256)
    recipe: Recipe = field(
        default_factory=lambda: decoupled_recipe(
            11.6, 0.0157, momentum=0.87, epochs=15, batch_size=128, crop_pad=2
        )
    )  # fmt: skip

    example: ClassVar[Mapping[str, Any]] = {"widths": [8, 8, 8]}

    def __post_init__(self) -> None:
        at_least(1, widths=self.widths)

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`."""
        return hlb_net(self.widths, num_classes, image_shape[0], momentums=(0.3, 0.4))
