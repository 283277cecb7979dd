"""Blocks of the hlb-CIFAR10 and airbench families: small nets that learn CIFAR in few epochs."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from harness.classifiers._base import GlobalMaxPool, ImageClassifier
from harness.core.recipe import Recipe

STEM_WIDTH = 24


class FixedScaleNorm(nn.BatchNorm2d):
    """Batch normalisation that learns a shift and no scale.

    The scale is a buffer of ones under the name that published checkpoints give it. An epsilon of
    1e-12 is the published one.

    Args:
        width: Channels.
        momentum: Share of the batch's statistics in an update of the running ones.
    """

    def __init__(self, width: int, momentum: float) -> None:
        super().__init__(width, eps=1e-12, momentum=momentum)
        del self.weight
        self.register_buffer("weight", torch.ones(width))


def _conv(inputs: int, outputs: int, kernel: int, *, bias: bool = False) -> nn.Conv2d:
    """Return a convolution whose first ``inputs`` filters start by passing their channel on."""
    padding = 1 if kernel == 3 else 0
    conv = nn.Conv2d(inputs, outputs, kernel, padding=padding, bias=bias)
    with torch.no_grad():
        nn.init.dirac_(conv.weight[:inputs])
    return conv


class _Group(nn.Module):
    """3x3 convolution and max-pool to half the side, then one or two more 3x3 convolutions.

    With two more (``depth`` 3) these are a residual branch, as in airbench96.
    """

    def __init__(self, inputs: int, width: int, depth: int, momentums: tuple[float, float]) -> None:
        super().__init__()
        first, later = momentums
        self.entry = nn.Sequential(
            _conv(inputs, width, 3), nn.MaxPool2d(2), FixedScaleNorm(width, first), nn.GELU()
        )
        layers: list[nn.Module] = []
        for index in range(depth - 1):
            layers += [nn.GELU()] if index else []
            layers += [_conv(width, width, 3), FixedScaleNorm(width, later)]
        self.branch, self.activation = nn.Sequential(*layers), nn.GELU()
        self.residual = depth == 3

    def forward(self, x: Tensor) -> Tensor:
        x = self.entry(x)
        out: Tensor = self.activation(x + self.branch(x) if self.residual else self.branch(x))
        return out


def hlb_net(
    widths: tuple[int, int, int],
    num_classes: int,
    channels: int,
    *,
    momentums: tuple[float, float],
    depth: int = 2,
    stem_norm: bool = True,
) -> ImageClassifier:
    """Return a learned 2x2 stem, three groups that halve the side, the global maximum, a head / 9.

    At 32 px the global maximum is the published 3x3 max-pool; it takes other sizes too.

    Args:
        widths: Channels of the groups.
        num_classes: Logits.
        channels: Of the images.
        momentums: Of batch normalisation (torch's convention) in stem and first convolution of a
            group, and in the later ones.
        depth: Convolutions per group: 2, or 3 of which two are a residual branch.
        stem_norm: Normalise after the stem, instead of a bias in it.
    """
    layers: list[nn.Module] = [_conv(channels, STEM_WIDTH, 2, bias=not stem_norm)]
    layers += [FixedScaleNorm(STEM_WIDTH, momentums[0])] if stem_norm else []
    layers.append(nn.GELU())
    for inputs, width in zip((STEM_WIDTH, *widths), widths, strict=False):
        layers.append(_Group(inputs, width, depth, momentums))
    body = nn.Sequential(*layers, GlobalMaxPool())
    head = nn.Linear(widths[-1], num_classes, bias=False)
    return ImageClassifier(body, head, channels=channels, scale=1 / 9)


def decoupled_recipe(
    lr: float, weight_decay: float, *, momentum: float, epochs: int, batch_size: int,
    crop_pad: int, cutout: int = 0, warmup: float = 0.2,
) -> Recipe:  # fmt: skip
    """Return the recipe that airbench's decoupled numbers stand for.

    There a rate is per 1,024 examples of *summed* loss and independent of momentum: divided by
    1024 (1 + 1 / (1 - momentum)) it is torch's, and times the batch the one for the mean loss. The
    penalty is given per such step, and torch multiplies it by the rate. Not carried over: a rate
    64 times higher for the shifts of batch normalisation, look-ahead, alternating flips, a warm-up
    that starts at 0.2.

    Args:
        lr, weight_decay: In airbench's units.
        momentum, epochs, batch_size, crop_pad, cutout, warmup: See
            :class:`harness.core.recipe.Recipe`.

    >>> recipe = decoupled_recipe(
    ...     11.5, 0.0153, momentum=0.85, epochs=10, batch_size=1024, crop_pad=2)
    >>> round(recipe.lr, 4), round(recipe.weight_decay, 6)
    (1.5, 0.00133)
    """
    step = 1024 * (1 + 1 / (1 - momentum))
    return Recipe(
        epochs=epochs, batch_size=batch_size, lr=lr * batch_size / step, momentum=momentum,
        weight_decay=weight_decay / lr, label_smoothing=0.2, warmup=warmup, crop_pad=crop_pad,
        cutout=cutout,
    )  # fmt: skip
