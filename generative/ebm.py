"""The energy network of PureGen, and a folded copy of it that is fast on its input.

Energy of an image: lower is more natural. The network is the discriminator of SNGAN for 32 px
without spectral normalisation and with mean pooling (PureGen, arXiv 2405.18627, section 3.2;
parameter names are those of its published checkpoints).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.core.errors import DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class EBMConfig:
    """Shape of an energy network.

    Attributes:
        nf: Width; 128 is the published one (1,053,824 parameters), 16 to 32 suit CPUs.
        patch_size: Pixel-unshuffle factor before the first block; 1 is none.
    """

    nf: int = 128
    patch_size: int = 1

    def __post_init__(self) -> None:
        if self.nf < 1 or self.patch_size < 1:
            raise DataError(
                f"nf and patch_size must be at least 1; got {self.nf}, {self.patch_size}."
            )


class _Block(nn.Module):
    """Two 3x3 convolutions and a 1x1 shortcut, or an identity shortcut."""

    def __init__(self, inputs: int, nf: int, *, shortcut: bool) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(inputs, nf, 3, padding=1)
        self.c2 = nn.Conv2d(nf, nf, 3, padding=1)
        if shortcut:
            self.c_sc = nn.Conv2d(inputs, nf, 1)


class EBM(nn.Module):
    """Energy of images, as the published code computes it (the plain form).

    Call: float (B, 3, H, W) in [-1, 1], H and W divisible by 4 → energies (B, 1), unbounded.
    """

    resource_kind: ClassVar[str] = "generator"

    def __init__(self, config: EBMConfig = EBMConfig()) -> None:
        super().__init__()
        self.config = config
        nf, channels = config.nf, 3 * config.patch_size**2
        self.block1 = _Block(channels, nf, shortcut=True)
        self.block2 = _Block(nf, nf, shortcut=True)
        self.block3 = _Block(nf, nf, shortcut=False)
        self.block4 = _Block(nf, nf, shortcut=False)
        self.l5 = nn.Linear(nf, 1, bias=False)
        for name, parameter in self.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.xavier_uniform_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        """Return energies (B, 1)."""
        if self.config.patch_size > 1:
            x = F.pixel_unshuffle(x, self.config.patch_size)
        b1, b2 = self.block1, self.block2
        x = F.avg_pool2d(b1.c2(F.relu(b1.c1(x))), 2) + b1.c_sc(F.avg_pool2d(x, 2))
        x = F.avg_pool2d(b2.c2(F.relu(b2.c1(F.relu(x)))) + b2.c_sc(x), 2)
        for block in (self.block3, self.block4):
            x = x + block.c2(F.relu(block.c1(F.relu(x))))
        energy: Tensor = self.l5(F.relu(x).mean((2, 3)))
        return energy


def fold_pool(kernel: Tensor) -> Tensor:
    """Fold a 3x3 convolution (padding 1) and the 2x2 average pool after it into one kernel.

    Args:
        kernel: (O, I, 3, 3).

    Returns:
        (O, I, 4, 4), to be used with stride 2 and padding 1: exact, also at the borders.
    """
    padded = [F.pad(kernel, (b, 1 - b, a, 1 - a)) for a in (0, 1) for b in (0, 1)]
    return torch.stack(padded).sum(0) / 4


def folded_energy(model: EBM, x: Tensor) -> Tensor:
    """Return energies (B,) with gradients to the parameters: the plain form, convolutions folded.

    Under ``torch.autocast`` the convolutions run in the lower precision; the head stays float32,
    because training divides energies by a temperature of about 1e-4.
    """
    if model.config.patch_size > 1:
        x = F.pixel_unshuffle(x, model.config.patch_size)
    b1, b2 = model.block1, model.block2

    def pooled(block: _Block, x: Tensor) -> Tensor:
        return F.conv2d(x, fold_pool(block.c2.weight), block.c2.bias, stride=2, padding=1)

    x = pooled(b1, F.relu(b1.c1(x))) + b1.c_sc(F.avg_pool2d(x, 2))
    x = pooled(b2, F.relu(b2.c1(F.relu(x)))) + b2.c_sc(F.avg_pool2d(x, 2))
    for block in (model.block3, model.block4):
        x = x + block.c2(F.relu(block.c1(F.relu(x))))
    with torch.autocast(x.device.type, enabled=False):
        return F.relu(x).float().mean((2, 3)) @ model.l5.weight[0]


def _input_gradient(grad: Tensor, like: Tensor, kernel: Tensor, stride: int, pad: int) -> Tensor:
    """Gradient of a convolution with respect to its input (of the shape of ``like``)."""
    result: Tensor = torch.ops.aten.convolution_backward(
        grad, like, kernel, None, [stride] * 2, [pad] * 2, [1, 1], False, [0, 0], 1,
        [True, False, False],
    )[0]  # fmt: skip
    return result


class FoldedEnergy:
    """The same energy with fewer operations, and its input gradient without autograd.

    Convolution and pooling are folded into one 4x4 kernel of stride 2, the shortcut is pooled
    before its 1x1 convolution, and since the network is ReLU and linear maps only, the gradient
    needs the signs of eight activations. The parameters are copied: later updates of ``model`` do
    not reach this object.

    Args:
        model: The plain network.
        dtype: Type of weights and activations; energies come back as float32.
    """

    def __init__(self, model: EBM, dtype: torch.dtype = torch.float32) -> None:
        def cast(tensor: Tensor) -> Tensor:
            tensor = tensor.detach().to(dtype)
            return tensor.contiguous(memory_format=torch.channels_last) if tensor.ndim == 4 else (
                tensor.contiguous()
            )  # fmt: skip

        self.dtype = dtype
        self.device = model.l5.weight.device
        self.patch_size = model.config.patch_size
        b1, b2 = model.block1, model.block2
        self._w = {name: cast(p) for name, p in model.named_parameters()}
        self._w["k1"] = cast(fold_pool(b1.c2.weight.detach()))
        self._w["k2"] = cast(fold_pool(b2.c2.weight.detach()))

    def _conv(self, x: Tensor, layer: str) -> Tensor:
        return F.conv2d(x, self._w[f"{layer}.weight"], self._w[f"{layer}.bias"], padding="same")

    def _input(self, x: Tensor) -> Tensor:
        if self.patch_size > 1:
            x = F.pixel_unshuffle(x, self.patch_size)
        return x.to(self.dtype, memory_format=torch.channels_last)

    def _forward(self, x: Tensor) -> tuple[Tensor, ...]:
        w = self._w
        a1 = F.relu_(self._conv(x, "block1.c1"))
        h = F.conv2d(a1, w["k1"], w["block1.c2.bias"], stride=2, padding=1)
        h1 = h.add_(self._conv(F.avg_pool2d(x, 2), "block1.c_sc"))
        r2 = F.relu(h1)
        a2 = F.relu_(self._conv(r2, "block2.c1"))
        h2 = F.conv2d(a2, w["k2"], w["block2.c2.bias"], stride=2, padding=1)
        h2 = h2.add_(self._conv(F.avg_pool2d(h1, 2), "block2.c_sc"))
        r3 = F.relu(h2)
        a3 = F.relu_(self._conv(r3, "block3.c1"))
        h3 = h2.add_(self._conv(a3, "block3.c2"))
        r4 = F.relu(h3)
        a4 = F.relu_(self._conv(r4, "block4.c1"))
        top = F.relu_(h3.add_(self._conv(a4, "block4.c2")))
        return a1, r2, a2, r3, a3, r4, a4, top

    @torch.no_grad()
    def energy(self, x: Tensor) -> Tensor:
        """Return energies, float32 (B,), of images float (B, 3, H, W) in [-1, 1]."""
        top = self._forward(self._input(x))[-1]
        return top.float().mean((2, 3)) @ self._w["l5.weight"].float()[0]

    @torch.no_grad()
    def input_gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of each image's own energy, float32, of the shape of ``x``."""
        w, masked = self._w, torch.ops.aten.threshold_backward
        x = self._input(x)
        a1, r2, a2, r3, a3, r4, a4, top = self._forward(x)
        positions = top.shape[2] * top.shape[3]
        g = masked((w["l5.weight"] / positions)[:, :, None, None].expand_as(top), top, 0)
        for outer, inner, block in ((r4, a4, "block4"), (r3, a3, "block3")):
            t = masked(_input_gradient(g, inner, w[f"{block}.c2.weight"], 1, 1), inner, 0)
            g = g + masked(_input_gradient(t, outer, w[f"{block}.c1.weight"], 1, 1), outer, 0)
        t = masked(_input_gradient(g, a2, w["k2"], 2, 1), a2, 0)
        t = masked(_input_gradient(t, r2, w["block2.c1.weight"], 1, 1), r2, 0)
        g = t.add_(self._unpool(g, "block2"))
        t = masked(_input_gradient(g, a1, w["k1"], 2, 1), a1, 0)
        t = _input_gradient(t, x, w["block1.c1.weight"], 1, 1)
        t = t.float().add_(self._unpool(g, "block1"))
        return F.pixel_shuffle(t, self.patch_size) if self.patch_size > 1 else t

    def _unpool(self, grad: Tensor, block: str) -> Tensor:
        """Carry a gradient back through the 1x1 shortcut and the 2x2 mean before it."""
        kernel = self._w[f"{block}.c_sc.weight"]
        small = F.conv2d(grad, kernel.transpose(0, 1).contiguous())
        return F.interpolate(small, scale_factor=2, mode="nearest").mul_(0.25)
