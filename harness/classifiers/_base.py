"""What all classifiers share: input statistics inside the network, and features before a head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

CIFAR_MEAN = (0.4914, 0.4822, 0.4465)
CIFAR_STD = (0.2471, 0.2435, 0.2616)


class ImageClassifier(nn.Module):
    """Float (B, C, H, W) in [0, 1] → logits (B, num_classes).

    The statistics are buffers of the network: a checkpoint carries the ones it was trained with,
    so that it can never be fed with others.

    Args:
        body: Normalised images → features (B, D).
        head: Linear layer on the features.
        scale: Factor on the logits.
        mean, std: One value per channel; for grey images the mean over the three.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        body: nn.Module,
        head: nn.Linear,
        *,
        channels: int = 3,
        scale: float = 1.0,
        mean: tuple[float, ...] = CIFAR_MEAN,
        std: tuple[float, ...] = CIFAR_STD,
    ) -> None:
        super().__init__()
        self.body, self.head, self.scale = body, head, scale
        for name, values in (("mean", mean), ("std", std)):
            column = torch.tensor(values, dtype=torch.float32)
            if channels != len(values):
                column = column.mean().expand(channels).clone()
            self.register_buffer(name, column.view(1, -1, 1, 1))

    def features(self, x: Tensor) -> Tensor:
        """Return the features (B, D) that the head reads."""
        out: Tensor = self.body((x - self.mean) / self.std)
        return out

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(x)) * self.scale
        return logits


class GlobalMaxPool(nn.Module):
    """(B, C, H, W) → (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.amax((2, 3))


class GlobalMeanPool(nn.Module):
    """(B, C, H, W) → (B, C)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))
