"""The energy network of PureGen, and a folded copy of it that is fast on its input.

Energy of an image: lower is more natural. The network is the discriminator of SNGAN for 32 px
without spectral normalisation and with mean pooling (PureGen, arXiv 2405.18627, section 3.2;
parameter names are those of its published checkpoints).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.core.allocator import keep_freed_blocks
from harness.core.device import ALIKE_ROWS, true_float32
from harness.core.errors import DataError
from harness.core.ranges import at_least
from harness.core.windows import inner_sums, padded_sums


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
        at_least(1, nf=self.nf, patch_size=self.patch_size)

    @property
    def divisor(self) -> int:
        """What the sides of an image must be divisible by."""
        return 4 * self.patch_size


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

    Call: float (B, 3, H, W) in [-1, 1] → energies (B, 1), unbounded. H and W are divisible by
    ``divisor``.
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

    @property
    def divisor(self) -> int:
        """What the sides of an image must be divisible by."""
        return self.config.divisor

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


def check_energy_takes(ebm: object, image_shape: tuple[int, int, int]) -> None:
    """Raise unless an energy network can take images (C, H, W); it need not be there already."""
    channels, height, width = image_shape
    divisor = ebm.divisor if isinstance(ebm, EBM | EBMConfig) else 4
    if channels != 3 or height % divisor or width % divisor:
        raise DataError(
            f"the energy network takes 3 channels and sides divisible by {divisor}; "
            f"images are {image_shape}."
        )


def folded_energy(model: EBM, x: Tensor) -> Tensor:
    """Return energies (B,) with gradients to the parameters: the plain form, convolutions folded.

    Under ``torch.autocast`` the convolutions run in the lower precision; the head stays float32,
    because training divides energies by a temperature of about 1e-4.
    """
    if model.config.patch_size > 1:
        x = F.pixel_unshuffle(x, model.config.patch_size)
    b1, b2 = model.block1, model.block2

    def pooled(block: _Block, x: Tensor) -> Tensor:
        return F.conv2d(padded_sums(x), block.c2.weight / 4, block.c2.bias, stride=2)

    x = pooled(b1, F.relu(b1.c1(x))) + b1.c_sc(F.avg_pool2d(x, 2))
    x = pooled(b2, F.relu(b2.c1(F.relu(x)))) + b2.c_sc(F.avg_pool2d(x, 2))
    for block in (model.block3, model.block4):
        x = x + block.c2(F.relu(block.c1(F.relu(x))))
    with torch.autocast(x.device.type, enabled=False):
        return F.relu(x).to(model.l5.weight.dtype).mean((2, 3)) @ model.l5.weight[0]


# Activations of about this many numbers are worked on at once on a CPU, so that they stay in its
# cache and in memory that the allocator keeps: 16 images of 32 px at the published width.
_CPU_ACTIVATION = 2**21


def _backwards(kernel: Tensor) -> Tensor:
    """Return the kernel that carries gradients back through a convolution of stride 1."""
    return kernel.flip(2, 3).transpose(0, 1)


def _four_places(kernel: Tensor) -> Tensor:
    """Place (O, I, 3, 3) at the four offsets of a 4x4 kernel, row by row: (4 O, I, 4, 4)."""
    return torch.cat([F.pad(kernel, (b, 1 - b, a, 1 - a)) for a in (0, 1) for b in (0, 1)])


def _mask(grad: Tensor, activation: Tensor) -> Tensor:
    """Set ``grad`` to 0, in place, where a ReLU's output is 0."""
    masked: Tensor = torch.ops.aten.threshold_backward.grad_input(
        grad, activation, 0, grad_input=grad
    )
    return masked


def _joined(parts: Sequence[Tensor]) -> Tensor:
    """Return parts as one; on a GPU, where there is but one, without a copy."""
    return parts[0] if len(parts) == 1 else torch.cat(list(parts))


class FoldedEnergy:
    """The same energy with fewer operations, and its input gradient without autograd.

    Convolution and pooling are folded into one kernel of stride 2, in the shortcuts too, and since
    the network is ReLU and linear maps only, the gradient needs the signs of eight activations.
    The parameters are copied: later updates of ``model`` do not reach this object.

    Args:
        model: The plain network.
        dtype: Type of weights and activations; energies come back as float32.
    """

    def __init__(self, model: EBM, dtype: torch.dtype = torch.float32) -> None:
        def cast(tensor: Tensor) -> Tensor:
            order = torch.channels_last if tensor.ndim == 4 else torch.contiguous_format
            return tensor.to(dtype).contiguous(memory_format=order)

        keep_freed_blocks()
        self.dtype = dtype
        self.device = model.l5.weight.device
        self.patch_size, self._width = model.config.patch_size, model.config.nf
        w = {name: p.detach() for name, p in model.named_parameters()}
        w["k1"], w["k2"] = w["block1.c2.weight"] / 4, w["block2.c2.weight"] / 4
        # Through the 1x1 shortcuts and the 2x2 means: as one kernel, or as one more channel each.
        w["sc1"] = (w["block1.c_sc.weight"] / 4).expand(-1, -1, 2, 2)
        w["sc2"] = w["block2.c_sc.weight"]
        w["sc2.back"] = _backwards(w["sc2"] / 4)
        for layer in ("block2.c1", "block3.c1", "block3.c2", "block4.c1", "block4.c2"):
            w[f"{layer}.back"] = _backwards(w[f"{layer}.weight"])
        # A convolution to 3 channels wastes most of a vector register. The gradients of the four
        # pixels of a 2x2 square as 12 channels, at half the resolution, take half the time.
        w["block1.c1.back"] = _four_places(_backwards(w["block1.c1.weight"]))
        w["sc1.back"] = _backwards(w["block1.c_sc.weight"] / 4).repeat(4, 1, 1, 1)
        self._w = {name: cast(tensor) for name, tensor in w.items()}

    def _conv(self, x: Tensor, layer: str) -> Tensor:
        return F.conv2d(x, self._w[f"{layer}.weight"], self._w[f"{layer}.bias"], padding=1)

    def _back(self, grad: Tensor, layer: str) -> Tensor:
        return F.conv2d(grad, self._w[f"{layer}.back"], padding=1)

    def _parts(self, x: Tensor) -> Sequence[Tensor]:
        """Split images into what is computed at once; on CPUs the last ones may be repeated."""
        if x.device.type != "cpu":
            return [x]
        numbers = self._width * x.shape[2] * x.shape[3] // self.patch_size**2
        size = max(1, _CPU_ACTIVATION // numbers // ALIKE_ROWS) * ALIKE_ROWS
        missing = -len(x) % ALIKE_ROWS
        padded = torch.cat([x, x[-1:].expand(missing, -1, -1, -1)]) if missing else x
        return torch.split(padded, size)

    def _input(self, x: Tensor) -> Tensor:
        if self.patch_size > 1:
            x = F.pixel_unshuffle(x, self.patch_size)
        return x.to(self.dtype, memory_format=torch.channels_last)

    def _forward(self, x: Tensor) -> tuple[Tensor, ...]:
        w = self._w
        a1 = F.relu_(self._conv(x, "block1.c1"))
        h1 = F.conv2d(padded_sums(a1), w["k1"], w["block1.c2.bias"], stride=2)
        h1 = h1.add_(F.conv2d(x, w["sc1"], w["block1.c_sc.bias"], stride=2))
        r2 = F.relu(h1)
        a2 = F.relu_(self._conv(r2, "block2.c1"))
        h2 = F.conv2d(padded_sums(a2), w["k2"], w["block2.c2.bias"], stride=2)
        h2 = h2.add_(F.conv2d(F.avg_pool2d(h1, 2), w["sc2"], w["block2.c_sc.bias"]))
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
        head = self._w["l5.weight"].float()
        with true_float32(self.dtype):
            tops = [self._forward(self._input(part))[-1] for part in self._parts(x)]
        # A matrix product would round a row by the number of rows.
        return _joined([(top.float().mean((2, 3)) * head).sum(1) for top in tops])[: len(x)]

    @torch.no_grad()
    def input_gradient(self, x: Tensor) -> Tensor:
        """Return the gradient of each image's own energy, float32, of the shape of ``x``."""
        with true_float32(self.dtype):
            parts = [self._gradient(self._input(part)) for part in self._parts(x)]
        return _joined(parts)[: len(x)]

    def _gradient(self, x: Tensor) -> Tensor:
        w = self._w
        a1, r2, a2, r3, a3, r4, a4, top = self._forward(x)
        share = w["l5.weight"] / (top.shape[2] * top.shape[3])
        g = top.sign_().mul_(share[:, :, None, None])  # 0 or 1, after a ReLU
        for outer, inner, block in ((r4, a4, "block4"), (r3, a3, "block3")):
            t = _mask(self._back(g, f"{block}.c2"), inner)
            g = g.add_(_mask(self._back(t, f"{block}.c1"), outer))
        t = _mask(inner_sums(F.conv_transpose2d(g, w["k2"], stride=2)), a2)
        shortcut = F.interpolate(F.conv2d(g, w["sc2.back"]), scale_factor=2, mode="nearest")
        g = _mask(self._back(t, "block2.c1"), r2).add_(shortcut)
        t = _mask(inner_sums(F.conv_transpose2d(g, w["k1"], stride=2)), a1)
        squares = F.conv2d(t, w["block1.c1.back"], stride=2, padding=1).float()
        return self._output(squares.add_(F.conv2d(g, w["sc1.back"])))

    def _output(self, squares: Tensor) -> Tensor:
        """Return (B, 3, H, W) of (B, 4 C, H/2, W/2), whose channels count pixels, then colours."""
        batch, _, height, width = squares.shape
        rows = squares.permute(0, 2, 3, 1).reshape(batch, height, width, 2, -1).transpose(2, 3)
        x = rows.reshape(batch, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)
        return F.pixel_shuffle(x, self.patch_size) if self.patch_size > 1 else x
