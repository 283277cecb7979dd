"""The nets of airbench with a stem that is learned instead of computed from the data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import nn

from harness.classifiers._hlb import decoupled_recipe, hlb_net
from harness.core.protocols import CLASSIFIERS
from harness.core.recipe import Recipe

_WIDTHS = {"94": (64, 256, 256), "95": (128, 384, 384), "96": (128, 384, 512), "tiny": (8, 8, 8)}


@CLASSIFIERS.register(paper="arXiv:2404.00498")
@dataclass(frozen=True, slots=True, kw_only=True)
class AirbenchLearnedStem:
    """The body of airbench94, 95 or 96 behind a learned stem; not airbench itself.

    Airbench's stem is frozen: the eigenvectors of its training images' 2x2 patches. A network that
    is built before there are data cannot have it, so here all 24 filters are learned and the first
    ones start by passing their channel on. Nor are look-ahead, alternating flips, test-time
    averaging and the higher rate of the normalisation's shifts there: expect less than the 94 to
    96 % in the published nets' names.

    Attributes:
        size: Net whose widths and depth it has; ``tiny`` is for tests.
        recipe: How it is trained; the default is airbench94's, 10 epochs of batch 1,024.
    """

    size: Literal["94", "95", "96", "tiny"] = "94"
    recipe: Recipe = field(
        default_factory=lambda: decoupled_recipe(
            11.5, 0.0153, momentum=0.85, epochs=10, batch_size=1024, crop_pad=2, warmup=0.23
        )
    )

    example: ClassVar[Mapping[str, Any]] = {"size": "tiny"}

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`."""
        deep = self.size == "96"
        momentum = 0.1 if deep else 0.4
        return hlb_net(
            _WIDTHS[self.size], num_classes, image_shape[0], depth=3 if deep else 2,
            momentums=(momentum, momentum), stem_norm=False,
        )  # fmt: skip
