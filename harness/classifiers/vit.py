"""A small vision transformer for small images."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.classifiers._base import ImageClassifier
from harness.core.errors import DataError
from harness.core.protocols import CLASSIFIERS
from harness.core.ranges import at_least
from harness.core.recipe import Recipe


class _Attention(nn.Module):
    """Self-attention of (B, T, D), scores divided by the root of a head's width."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.project, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        split = self.project(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        mixed = F.scaled_dot_product_attention(*split.unbind(0))
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


class _Layer(nn.Module):
    def __init__(self, width: int, mlp_width: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.Sequential(nn.LayerNorm(width), _Attention(width, heads))
        self.mlp = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, mlp_width),
            nn.GELU(),
            nn.Linear(mlp_width, width),
            nn.GELU(),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(x)
        out: Tensor = x + self.mlp(x)
        return out


class _Tokens(nn.Module):
    """Images (B, C, H, W) → one token per patch with its learned position (B, grid², D)."""

    def __init__(self, channels: int, width: int, patch: tuple[int, int], grid: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(channels, width, patch, stride=patch)
        self.position = nn.Parameter(torch.randn(1, grid * grid, width))

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.embed(x).flatten(2).transpose(1, 2) + self.position
        return out


class _TokenMean(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)


@CLASSIFIERS.register(paper="arXiv:2010.11929; arXiv:2405.18627")
@dataclass(frozen=True, slots=True, kw_only=True)
class ViT:
    """Vision transformer on a 16x16 grid of patches, without a class token.

    6,327,946 parameters for 10 classes at 32 px: 7 layers of 12 heads, width 384, mean over the
    tokens, then normalisation and head. Attention is scaled by the root of a head's width; the
    published code divided by that of all heads together. The recipe is ours: none of this net's
    was published.

    Attributes:
        width: Channels of a token.
        mlp_width: Hidden channels of a layer's second part.
        layers: Number of layers.
        heads: Attention heads; they divide ``width``.
        grid: Patches along a side; a patch is 2 px wide at 32 px and 4 px at 64 px.
        recipe: How it is trained.
    """

    width: int = 384
    mlp_width: int = 384
    layers: int = 7
    heads: int = 12
    grid: int = 16
    recipe: Recipe = field(
        default_factory=lambda: Recipe(
            epochs=200, batch_size=128, optimizer="adam", lr=1e-3, weight_decay=5e-5, warmup=0.025
        )
    )  # fmt: skip

    example: ClassVar[Mapping[str, Any]] = {
        "width": 16,
        "mlp_width": 16,
        "layers": 2,
        "heads": 2,
        "grid": 8,
    }

    def __post_init__(self) -> None:
        at_least(1, width=self.width, mlp_width=self.mlp_width, layers=self.layers)
        at_least(1, heads=self.heads, grid=self.grid)
        if self.width % self.heads:
            raise DataError(f"heads must divide width; got {self.heads} and {self.width}.")

    def build(self, num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
        """Return the network; see :class:`harness.core.protocols.Classifier`.

        Raises:
            DataError: If the grid does not divide the images' sides.
        """
        channels, height, width = image_shape
        if height % self.grid or width % self.grid:
            raise DataError(
                f"grid must divide the sides of the images; got {self.grid} for {height}x{width}."
            )
        patch = (height // self.grid, width // self.grid)
        layers = [_Layer(self.width, self.mlp_width, self.heads) for _ in range(self.layers)]
        body = nn.Sequential(
            _Tokens(channels, self.width, patch, self.grid),
            *layers,
            _TokenMean(),
            nn.LayerNorm(self.width),
        )
        return ImageClassifier(body, nn.Linear(self.width, num_classes), channels=channels)
