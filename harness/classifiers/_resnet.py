"""Residual nets of basic blocks for small images."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from harness.classifiers._base import GlobalMeanPool, ImageClassifier


def _conv_norm(inputs: int, width: int, kernel: int, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, width, kernel, stride, padding=kernel // 2, bias=False)
    return [conv, nn.BatchNorm2d(width)]


class _BasicBlock(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        first = _conv_norm(inputs, width, 3, stride)
        self.body = nn.Sequential(*first, nn.ReLU(inplace=True), *_conv_norm(width, width, 3))
        same = stride == 1 and inputs == width
        self.shortcut = nn.Sequential(*([] if same else _conv_norm(inputs, width, 1, stride)))
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return out


def basic_resnet(
    blocks: Sequence[int], width: int, num_classes: int, channels: int
) -> ImageClassifier:
    """Return a residual net of basic blocks: 3x3 stem of stride 1, no max-pool, global mean pool.

    The weights start as PyTorch's layers do, as in the paper's nets: no zero-gamma, no fan-out.

    Args:
        blocks: Number of blocks at each side; the side halves and the width doubles in between.
        width: Channels of the stem; 64 in the published nets.
        num_classes: Logits.
        channels: Of the images.
    """
    layers = [*_conv_norm(channels, width, 3), nn.ReLU(inplace=True)]
    inputs = width
    for stage, count in enumerate(blocks):
        outputs = width * 2**stage
        for block in range(count):
            layers.append(_BasicBlock(inputs, outputs, 2 if stage and not block else 1))
            inputs = outputs
    body = nn.Sequential(*layers, GlobalMeanPool())
    return ImageClassifier(body, nn.Linear(inputs, num_classes), channels=channels)
