"""Sums of 2x2 windows: with them, a 3x3 convolution beside a 2x2 mean takes a quarter of its work.

A convolution (padding 1) and the mean after it are both linear, so the mean may come first: taken
over every window of the input, also those half outside, of which a 3x3 convolution of stride 2 then
needs each once. That is 9 products per pooled pixel; as written it is 36, and as one 4x4 kernel of
stride 2 it is 16. The same holds backwards, and for a convolution after nearest upsampling, which
is the transposed map of a convolution before a mean.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def padded_sums(x: Tensor) -> Tensor:
    """Return the sum of each 2x2 window of ``x`` with a border of zeros around it.

    Args:
        x: (B, C, H, W); on a CPU best in channels-last order.

    Returns:
        (B, C, H + 1, W + 1): at (i, j) the sum over rows i - 1, i and columns j - 1, j.
    """
    if x.device.type != "cpu" and torch.is_grad_enabled():
        # In channels-last order torch 2.11 shifts this gradient by the padding (pytorch #188344).
        return inner_sums(F.pad(x, (1, 1, 1, 1)))
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return F.avg_pool2d(x, 2, stride=1, padding=1, divisor_override=1)
    # torch's pooling takes two to three times as long as these sums, which have no gradient.
    rows = x.permute(0, 2, 3, 1)
    batch, height, width, channels = rows.shape
    across = rows.new_empty(batch, height, width + 1, channels)
    torch.add(rows[:, :, 1:], rows[:, :, :-1], out=across[:, :, 1:-1])
    across[:, :, 0], across[:, :, -1] = rows[:, :, 0], rows[:, :, -1]
    sums = rows.new_empty(batch, height + 1, width + 1, channels)
    torch.add(across[:, 1:], across[:, :-1], out=sums[:, 1:-1])
    sums[:, 0], sums[:, -1] = across[:, 0], across[:, -1]
    return sums.permute(0, 3, 1, 2)


def inner_sums(x: Tensor) -> Tensor:
    """Return the sum of each 2x2 window inside ``x``: the transposed map of :func:`padded_sums`.

    Args:
        x: (B, C, H + 1, W + 1); on a CPU best in channels-last order.

    Returns:
        (B, C, H, W).
    """
    if x.device.type != "cpu" or torch.is_grad_enabled():
        return F.avg_pool2d(x, 2, stride=1, divisor_override=1)
    rows = x.permute(0, 2, 3, 1)
    across = rows[:, :, 1:] + rows[:, :, :-1]
    return (across[:, 1:] + across[:, :-1]).permute(0, 3, 1, 2)
