"""The U-Net that predicts the noise in an image: diffusers' ``UNet2DModel``, as a network of ours.

Parameter names, shapes and mathematics are those of diffusers for the block types below, so that
published checkpoints load (PureGen, arXiv 2405.18627, section 3.3; DDPM, arXiv 2006.11239,
appendix B). A pixel-unshuffle around it makes it small enough for CPUs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from harness.core.allocator import keep_freed_blocks
from harness.core.device import channels_last
from harness.core.errors import DataError
from harness.core.windows import inner_sums

DownBlock = Literal["DownBlock2D", "AttnDownBlock2D"]
UpBlock = Literal["UpBlock2D", "AttnUpBlock2D"]


@dataclass(frozen=True, slots=True, kw_only=True)
class UNetConfig:
    """Shape of a U-Net, in the words of diffusers; the defaults suit CPUs.

    Attributes:
        block_out_channels: Width of each resolution, the finest first.
        layers_per_block: Residual blocks per resolution on the way down; one more on the way up.
        down_block_types: One per resolution, the finest first.
        up_block_types: One per resolution, the coarsest first.
        norm_num_groups: Groups of each normalisation; divides every width.
        norm_eps: Added to the variance in each normalisation.
        attention_head_dim: Channels per attention head; None is one head.
        in_channels: Channels of the images, and of the noise.
        sample_size: Side of the images trained on, in pixels; None allows any.
        downsample_padding: 1, or 0 for one further row and column at the far end only.
        flip_sin_to_cos: Whether cosines come first in the time embedding.
        freq_shift: Taken from the number of frequencies in the time embedding's exponent.
        pixel_unshuffle: Factor around the network; 1 is none, and what diffusers has.
    """

    block_out_channels: tuple[int, ...] = (32, 64, 64)
    layers_per_block: int = 1
    down_block_types: tuple[DownBlock, ...] = ("DownBlock2D", "DownBlock2D", "AttnDownBlock2D")
    up_block_types: tuple[UpBlock, ...] = ("AttnUpBlock2D", "UpBlock2D", "UpBlock2D")
    norm_num_groups: int = 32
    norm_eps: float = 1e-5
    attention_head_dim: int | None = 32
    in_channels: int = 3
    sample_size: int | None = None
    downsample_padding: Literal[0, 1] = 1
    flip_sin_to_cos: bool = True
    freq_shift: int = 0
    pixel_unshuffle: int = 2

    def __post_init__(self) -> None:
        widths = self.block_out_channels
        counts = {len(widths), len(self.down_block_types), len(self.up_block_types)}
        if len(counts) > 1 or not widths:
            raise DataError(
                "block_out_channels, down_block_types and up_block_types must be of one length, "
                f"at least 1; got {len(widths)}, {len(self.down_block_types)}, "
                f"{len(self.up_block_types)}."
            )
        smallest = (self.layers_per_block, self.norm_num_groups, self.in_channels, *widths)
        if min(*smallest, self.pixel_unshuffle, self.attention_head_dim or 1) < 1:
            raise DataError("widths, counts and factors of a U-Net must be at least 1.")
        for divisor in {self.norm_num_groups, self.attention_head_dim or 1}:
            if any(width % divisor for width in widths):
                raise DataError(
                    "norm_num_groups and attention_head_dim must divide every width; got "
                    f"{divisor} and {', '.join(map(str, widths))}."
                )

    @property
    def divisor(self) -> int:
        """What the sides of an image must be divisible by."""
        return int(self.pixel_unshuffle * 2 ** (len(self.block_out_channels) - 1))


def published(width: int = 128) -> UNetConfig:
    """Return the shape of PureGen's networks: width 128 is its L, 64 its M, 32 its S."""
    down: DownBlock = "DownBlock2D"
    up: UpBlock = "UpBlock2D"
    return UNetConfig(
        block_out_channels=tuple(width * factor for factor in (1, 1, 2, 2, 4, 4)),
        layers_per_block=2,
        down_block_types=(down, down, down, down, "AttnDownBlock2D", down),
        up_block_types=(up, "AttnUpBlock2D", up, up, up, up),
        attention_head_dim=8,
        sample_size=32,
        pixel_unshuffle=1,
    )


_CPU_BAND = 2**18  # numbers that are normalised at once on a CPU


class _Norm(nn.GroupNorm):
    """Group normalisation, then SiLU or not, that stays in channels-last order.

    Its own arithmetic is that of its parameters, float32 whatever the activations are. Sums over
    channels-last pixels and one multiply-add are 2 to 20 times as fast on CPUs as torch's kernel,
    most in bf16, and on GPUs torch's kernel may leave channels-last order.
    """

    def forward(self, x: Tensor, silu: bool = False) -> Tensor:
        """Return the shape, order and type of ``x``."""
        if torch.is_grad_enabled():
            return self._with_gradient(x, silu)
        if x.device.type != "cpu":
            return self._without_copies(x, silu)
        # Some rows at a time: their float32 copies stay in the processor's cache.
        result = torch.empty_like(x)
        rows = max(1, _CPU_BAND // x[:1].numel())
        for band, out in zip(torch.split(x, rows), torch.split(result, rows), strict=True):
            y = band.to(self.weight.dtype)
            scale, shift = self._affine(y.sum((2, 3)), y.square().sum((2, 3)), x[0, 0].numel())
            y = torch.addcmul(shift, y, scale)
            out.copy_(F.silu(y, inplace=True) if silu else y)
        return result

    def _with_gradient(self, x: Tensor, silu: bool) -> Tensor:
        y = x.to(self.weight.dtype)
        scale, shift = self._affine(y.sum((2, 3)), y.square().sum((2, 3)), x[0, 0].numel())
        y = torch.addcmul(shift, y, scale)
        return (F.silu(y) if silu else y).to(x.dtype)

    def _without_copies(self, x: Tensor, silu: bool) -> Tensor:
        """Do the same without float32 copies of the activations.

        A GPU is bound by its memory here: six times two bytes per bf16 number, where copies would
        take 44. What the SiLU reads is rounded to the type of ``x``.
        """
        kind = self.weight.dtype
        norms = torch.linalg.vector_norm(x, dim=(2, 3), dtype=kind)
        scale, shift = self._affine(x.sum((2, 3), dtype=kind), norms.square(), x[0, 0].numel())
        y = torch.addcmul(shift, x, scale, out=torch.empty_like(x))
        return F.silu(y, inplace=True) if silu else y

    def _affine(self, sums: Tensor, squares: Tensor, pixels: int) -> tuple[Tensor, Tensor]:
        """Return scale and shift, (B, C, 1, 1), from the sums of channels over pixels, (B, C)."""
        members = sums.shape[1] // self.num_groups

        def mean(values: Tensor) -> Tensor:  # (B, G, 1)
            of_groups = values.reshape(-1, self.num_groups, members).sum(2, keepdim=True)
            return of_groups / (members * pixels)

        centre = mean(sums)
        variance = (mean(squares) - centre.square()).clamp_min(0)  # rounding may leave it below
        scale = (variance + self.eps).rsqrt() * self.weight.view(self.num_groups, members)
        shift = self.bias.view(self.num_groups, members) - centre * scale
        return scale.view(*sums.shape, 1, 1), shift.view(*sums.shape, 1, 1)


def _convolved(x: Tensor, layer: nn.Conv2d, bias: Tensor | None) -> Tensor:
    """Apply a 3x3 convolution of padding 1 with another bias than its own."""
    if x.shape[2:] == (1, 1):  # the other eight taps only ever meet the border
        return F.linear(x.flatten(1), layer.weight[:, :, 1, 1], bias)[:, :, None, None]
    return F.conv2d(x, layer.weight, bias, padding=1)


class _Resnet(nn.Module):
    """Residual block; the time shifts the first convolution's output by one value per channel."""

    def __init__(self, c: UNetConfig, inputs: int, outputs: int) -> None:
        super().__init__()
        self.norm1 = _Norm(c.norm_num_groups, inputs, c.norm_eps)
        self.conv1 = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.time_emb_proj = nn.Linear(4 * c.block_out_channels[0], outputs)
        self.norm2 = _Norm(c.norm_num_groups, outputs, c.norm_eps)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.conv_shortcut = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else None

    def forward(self, x: Tensor, shift: Tensor) -> Tensor:
        """Return (B, outputs, H, W); ``shift`` is (B, outputs), or (1, outputs) for all alike."""
        h: Tensor = self.norm1(x, silu=True)
        if len(shift) == 1:  # one time for all: part of the bias, or all of it
            bias = self.conv1.bias
            h = _convolved(h, self.conv1, shift[0] if bias is None else bias + shift[0])
        else:
            h = _convolved(h, self.conv1, self.conv1.bias)
            h = h + shift[:, :, None, None].to(h.dtype)
        h = _convolved(self.norm2(h, silu=True), self.conv2, self.conv2.bias)
        skip: Tensor = x if self.conv_shortcut is None else self.conv_shortcut(x)
        return h + skip if torch.is_grad_enabled() else h.add_(skip)


class _Attention(nn.Module):
    """Self-attention over the pixels, with residual."""

    def __init__(self, c: UNetConfig, width: int) -> None:
        super().__init__()
        self.heads = width // c.attention_head_dim if c.attention_head_dim else 1
        self.group_norm = _Norm(c.norm_num_groups, width, c.norm_eps)
        self.to_q, self.to_k, self.to_v = (nn.Linear(width, width) for _ in range(3))
        self.to_out = nn.ModuleList([nn.Linear(width, width)])

    def forward(self, x: Tensor) -> Tensor:
        batch, width, height, side = x.shape
        tokens = self.group_norm(x).permute(0, 2, 3, 1).reshape(batch, -1, width)
        if tokens.shape[1] == 1:  # the softmax over one token is 1
            mixed = self.to_v(tokens)
        else:
            q, k, v = (
                project(tokens).unflatten(2, (self.heads, -1)).transpose(1, 2)
                for project in (self.to_q, self.to_k, self.to_v)
            )
            mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = self.to_out[0](mixed).unflatten(1, (height, side)).permute(0, 3, 1, 2)
        result: Tensor = x + out
        return result


class _Downsample(nn.Module):
    """3x3 convolution of stride 2."""

    def __init__(self, c: UNetConfig, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, stride=2, padding=c.downsample_padding)

    def forward(self, x: Tensor) -> Tensor:
        """Return half the resolution."""
        if self.conv.padding == (0, 0):
            x = F.pad(x, (0, 1, 0, 1))
        result: Tensor = self.conv(x)
        return result


class _Upsample(nn.Module):
    """Nearest-neighbour doubling and a 3x3 convolution."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(width, width, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Return twice the resolution."""
        result: Tensor = self.conv(F.interpolate(x, scale_factor=2.0, mode="nearest"))
        return result


class _FoldedUpsample(nn.Module):
    """The same with a quarter of the products: a transposed convolution, then sums of windows."""

    def __init__(self, plain: _Upsample) -> None:
        super().__init__()
        # Doubling is the transpose of a 2x2 sum, and a convolution that of its kernel backwards.
        kernel = plain.conv.weight.detach().flip(2, 3).transpose(0, 1).contiguous()
        self.weight = nn.Parameter(kernel)
        self.bias = plain.conv.get_parameter("bias")

    def forward(self, x: Tensor) -> Tensor:
        """Return twice the resolution."""
        sums = inner_sums(F.conv_transpose2d(x, self.weight, stride=2))
        return sums.add_(self.bias[:, None, None])


class _Block(nn.Module):
    """Residual blocks of one resolution, each with attention after it or none, and a resampler."""

    def __init__(
        self, c: UNetConfig, inputs: list[int], outputs: int, *, attention: bool, resample: str
    ) -> None:
        super().__init__()
        self.resnets = nn.ModuleList([_Resnet(c, i, outputs) for i in inputs])
        if attention:
            self.attentions = nn.ModuleList([_Attention(c, outputs) for _ in inputs])
        self.attends = attention
        if resample == "down":
            self.downsamplers = nn.ModuleList([_Downsample(c, outputs)])
        elif resample == "up":
            self.upsamplers = nn.ModuleList([_Upsample(outputs)])
        self.resample = {"down": "downsamplers", "up": "upsamplers"}.get(resample, "")

    def layer(self, index: int, x: Tensor, shifts: Iterator[Tensor]) -> Tensor:
        """Apply one residual block and its attention."""
        x = self.resnets[index](x, next(shifts))
        return self.attentions[index](x) if self.attends else x

    def resampled(self, x: Tensor) -> Tensor:
        """Apply the resampler."""
        result: Tensor = getattr(self, self.resample)[0](x)
        return result


def _blocks(modules: nn.ModuleList) -> list[_Block]:
    return [block for block in modules if isinstance(block, _Block)]


class _Middle(nn.Module):
    """Two residual blocks around an attention, at the coarsest resolution."""

    def __init__(self, c: UNetConfig, width: int) -> None:
        super().__init__()
        self.attentions = nn.ModuleList([_Attention(c, width)])
        self.resnets = nn.ModuleList([_Resnet(c, width, width) for _ in range(2)])

    def forward(self, x: Tensor, shifts: Iterator[Tensor]) -> Tensor:
        """Return the shape of ``x``."""
        x = self.attentions[0](self.resnets[0](x, next(shifts)))
        result: Tensor = self.resnets[1](x, next(shifts))
        return result


class _TimeEmbedding(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear_1 = nn.Linear(width, 4 * width)
        self.linear_2 = nn.Linear(4 * width, 4 * width)

    def forward(self, waves: Tensor) -> Tensor:
        """Return SiLU of the embedding, which is all that the residual blocks read of it."""
        return F.silu(self.linear_2(F.silu(self.linear_1(waves))))


def _down_blocks(c: UNetConfig) -> tuple[list[_Block], list[int]]:
    """Return the blocks of the way down and the widths of what they leave for the way up."""
    width, last = c.block_out_channels[0], len(c.block_out_channels) - 1
    blocks, skips = [], [width]
    for index, (kind, outputs) in enumerate(
        zip(c.down_block_types, c.block_out_channels, strict=True)
    ):
        inputs = [width, *[outputs] * (c.layers_per_block - 1)]
        resample = "down" if index < last else ""
        blocks.append(
            _Block(c, inputs, outputs, attention=kind == "AttnDownBlock2D", resample=resample)
        )
        skips += [outputs] * (c.layers_per_block + bool(resample))
        width = outputs
    return blocks, skips


def _up_blocks(c: UNetConfig, skips: list[int]) -> list[_Block]:
    width, last = c.block_out_channels[-1], len(c.block_out_channels) - 1
    blocks = []
    for index, (kind, outputs) in enumerate(
        zip(c.up_block_types, reversed(c.block_out_channels), strict=True)
    ):
        inputs = []
        for _ in range(c.layers_per_block + 1):
            inputs.append(width + skips.pop())
            width = outputs
        resample = "up" if index < last else ""
        blocks.append(
            _Block(c, inputs, outputs, attention=kind == "AttnUpBlock2D", resample=resample)
        )
    return blocks


class UNet(nn.Module):
    """Noise in noisy images, as a function of them and of the time step.

    Call: float (B, C, H, W) in units of [-1, 1], plus noise; time steps (B,), or one for all,
    0 and up → the predicted standard normal noise (B, C, H, W). H and W are divisible by
    ``config.divisor``.
    """

    def __init__(self, config: UNetConfig = UNetConfig()) -> None:
        super().__init__()
        self.config = config
        width = config.block_out_channels[0]
        channels = config.in_channels * config.pixel_unshuffle**2
        self.conv_in = nn.Conv2d(channels, width, 3, padding=1)
        self.time_embedding = _TimeEmbedding(width)
        down, skips = _down_blocks(config)
        self.down_blocks = nn.ModuleList(down)
        self.mid_block = _Middle(config, config.block_out_channels[-1])
        self.up_blocks = nn.ModuleList(_up_blocks(config, skips))
        self.conv_norm_out = _Norm(config.norm_num_groups, width, config.norm_eps)
        self.conv_out = nn.Conv2d(width, channels, 3, padding=1)
        self._widths = [r.conv1.out_channels for r in self._resnets()]
        self._start_small()

    def _start_small(self) -> None:
        """Let every residual branch, and the prediction, start at 0: few updates go further so.

        The first code of DDPM does that; diffusers does not.
        """
        last: list[nn.Module] = [self.conv_out]
        for module in self.modules():
            if isinstance(module, _Resnet):
                last.append(module.conv2)
            elif isinstance(module, _Attention):
                last.append(module.to_out[0])
        for parameter in (p for layer in last for p in layer.parameters()):
            nn.init.zeros_(parameter)

    def _resnets(self) -> list[_Resnet]:
        """Return the residual blocks in the order in which ``predict`` comes to them."""
        blocks = (*self.down_blocks, self.mid_block, *self.up_blocks)
        return [m for block in blocks for m in block.modules() if isinstance(m, _Resnet)]

    def shifts(self, t: Tensor) -> Tensor:
        """Return what the time adds in all residual blocks, (T, sum of their widths).

        Args:
            t: Time steps, shape (T,) or ().
        """
        c = self.config
        half = c.block_out_channels[0] // 2
        dtype = self.time_embedding.linear_1.weight.dtype
        steps = torch.arange(half, device=t.device, dtype=dtype)
        rate = torch.exp(-math.log(10_000) * steps / (half - c.freq_shift))
        angles = t.reshape(-1, 1).to(dtype) * rate
        sine, cosine = angles.sin(), angles.cos()
        with torch.autocast(t.device.type, enabled=False):
            waves = [cosine, sine] if c.flip_sin_to_cos else [sine, cosine]
            embedding = self.time_embedding(torch.cat(waves, 1))
            return torch.cat([r.time_emb_proj(embedding) for r in self._resnets()], 1)

    @torch.no_grad()
    def take_biases(self, shifts: Tensor) -> Tensor:
        """Return shifts, (T, sum of widths), with the biases that they are added to, which go.

        So no step needs to add them. From then on :meth:`predict` is for such shifts only.
        """
        convolutions = [r.conv1 for r in self._resnets()]
        biases = [c.bias for c in convolutions if c.bias is not None]
        for convolution in convolutions:
            convolution.bias = None
        return shifts + torch.cat(biases)

    def predict(self, x: Tensor, shifts: Tensor) -> Tensor:
        """Return the noise, given what :meth:`shifts` gave for the time steps of ``x``.

        Args:
            x: (B, C, H, W).
            shifts: (B, sum of widths), or (1, sum of widths) where all images share a time.
        """
        factor = self.config.pixel_unshuffle
        if factor > 1:
            x = F.pixel_unshuffle(x, factor)
        x = self.conv_in(x.contiguous(memory_format=torch.channels_last))
        parts = iter(torch.split(shifts, self._widths, 1))
        skips = [x]
        for block in _blocks(self.down_blocks):
            for index in range(len(block.resnets)):
                x = block.layer(index, x, parts)
                skips.append(x)
            if block.resample:
                x = block.resampled(x)
                skips.append(x)
        x = self.mid_block(x, parts)
        for block in _blocks(self.up_blocks):
            for index in range(len(block.resnets)):
                x = block.layer(index, torch.cat([x, skips.pop()], 1), parts)
            if block.resample:
                x = block.resampled(x)
        x = self.conv_out(self.conv_norm_out(x, silu=True))
        return F.pixel_shuffle(x, factor) if factor > 1 else x

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise in ``x`` at time steps ``t``, (B,) or ()."""
        return self.predict(x, self.shifts(t))


def for_inference(model: UNet, dtype: torch.dtype) -> UNet:
    """Return a frozen copy in another precision, of which only :meth:`UNet.predict` is for use.

    Args:
        model: The network.
        dtype: Type of weights and activations; normalisations compute in float32 all the same.
    """
    keep_freed_blocks()
    fast = copy.deepcopy(model)
    for block in _blocks(fast.up_blocks):
        for index, plain in enumerate(block.upsamplers if block.resample else ()):
            if isinstance(plain, _Upsample):
                block.upsamplers[index] = _FoldedUpsample(plain)
    fast = fast.to(dtype).eval().requires_grad_(False)
    for module in fast.modules():
        if isinstance(module, _Norm):
            module.float()
    return channels_last(fast)
