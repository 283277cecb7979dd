"""How fast diffusion purification is at an equal number of steps, against the straightforward form.

Both take the same ancestral steps with the same random U-Net, from uint8 images to uint8 images.
The straightforward side is the network of diffusers as it stands there: float32, NCHW order,
torch's group normalisation, the time embedding computed anew in each step.

    OMP_NUM_THREADS=1 python benchmarks/ddpm_purification.py --out ddpm_purification.json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from _frame import STRAIGHTFORWARD, TYPES, Case, Form, native, parser, run
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses._purify import diffusion_steps, purify_images
from generative.ddpm import DDPM, Diffusion, alpha_bar
from generative.noise import row_noise
from generative.unet import UNet, UNetConfig, _Attention, _Block, _Norm, _Resnet, published

TARGET = 2.0


class _PlainNorm(nn.GroupNorm):
    def forward(self, x: Tensor, silu: bool = False) -> Tensor:
        y = super().forward(x)
        return F.silu(y) if silu else y


class PlainUNet:
    """The U-Net as diffusers writes it down; call: images (B, C, H, W), time steps (B,) → noise."""

    def __init__(self, model: UNet) -> None:
        self.net = copy.deepcopy(model).to(memory_format=torch.contiguous_format).eval()
        for module in self.net.modules():
            if isinstance(module, _Norm):
                module.__class__ = _PlainNorm

    def _resnet(self, block: _Resnet, x: Tensor, embedding: Tensor) -> Tensor:
        h = block.conv1(block.norm1(x, silu=True))
        h = h + block.time_emb_proj(embedding)[:, :, None, None]
        h = block.conv2(block.norm2(h, silu=True))
        return h + (x if block.conv_shortcut is None else block.conv_shortcut(x))

    def _attention(self, block: _Attention, x: Tensor) -> Tensor:
        batch, width, height, side = x.shape
        tokens = block.group_norm(x).flatten(2).transpose(1, 2)
        q, k, v = (
            project(tokens).unflatten(2, (block.heads, -1)).transpose(1, 2)
            for project in (block.to_q, block.to_k, block.to_v)
        )
        mixed = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out = block.to_out[0](mixed).transpose(1, 2).reshape(batch, width, height, side)
        return x + out

    def _layer(self, block: _Block, index: int, x: Tensor, embedding: Tensor) -> Tensor:
        x = self._resnet(block.resnets[index], x, embedding)
        return self._attention(block.attentions[index], x) if block.attends else x

    @torch.no_grad()
    def __call__(self, x: Tensor, t: Tensor) -> Tensor:
        """Return the noise in ``x``."""
        net, factor = self.net, self.net.config.pixel_unshuffle
        half = net.config.block_out_channels[0] // 2
        rate = torch.exp(-np.log(10_000) * torch.arange(half, device=x.device) / half)
        angles = t[:, None].float() * rate
        embedding = net.time_embedding(torch.cat([angles.cos(), angles.sin()], 1))
        x = net.conv_in(F.pixel_unshuffle(x, factor) if factor > 1 else x)
        skips = [x]
        for block in net.down_blocks:
            for index in range(len(block.resnets)):
                x = self._layer(block, index, x, embedding)
                skips.append(x)
            if block.resample:
                x = block.resampled(x)
                skips.append(x)
        x = self._resnet(net.mid_block.resnets[0], x, embedding)
        x = self._attention(net.mid_block.attentions[0], x)
        x = self._resnet(net.mid_block.resnets[1], x, embedding)
        for block in net.up_blocks:
            for index in range(len(block.resnets)):
                x = self._layer(block, index, torch.cat([x, skips.pop()], 1), embedding)
            if block.resample:
                x = block.resampled(x)
        x = net.conv_out(net.conv_norm_out(x, silu=True))
        return F.pixel_shuffle(x, factor) if factor > 1 else x


def straightforward(
    images: NDArray[np.uint8], net: PlainUNet, steps: int, noise: Iterator[Tensor] | None = None
) -> NDArray[np.uint8]:
    """Return purified images by DDPM's algorithm 2, from noise level ``steps - 1``."""
    device = net.net.conv_in.weight.device

    def normal(like: Tensor) -> Tensor:
        return torch.randn_like(like) if noise is None else next(noise)

    x = torch.tensor(images).to(device).float() / 127.5 - 1
    level = alpha_bar(steps - 1)
    x = level**0.5 * x + (1 - level) ** 0.5 * normal(x)
    for t in range(steps - 1, -1, -1):
        low, high = alpha_bar(t), alpha_bar(t - 1)
        beta = 1 - low / high
        predicted = net(x, torch.full((len(x),), t, device=device))
        x0 = ((x - (1 - low) ** 0.5 * predicted) / low**0.5).clamp(-1, 1)
        x = high**0.5 * beta / (1 - low) * x0 + (1 - beta) ** 0.5 * (1 - high) / (1 - low) * x
        if t > 0:
            x = x + ((1 - high) / (1 - low) * beta) ** 0.5 * normal(x)
    return ((x + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def network(config: UNetConfig, seed: int, device: str) -> DDPM:
    """Return a noise predictor of random weights, none of which is zero."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = DDPM(config)
        for parameter in model.parameters():
            parameter.data += 0.02 * torch.randn(parameter.shape)
    return model.requires_grad_(False).to(device)


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield one case per network."""
    for size in arguments.networks:
        yield _case(size, UNetConfig() if size == "small" else published(int(size)), arguments)


def _case(size: str, config: UNetConfig, arguments: argparse.Namespace) -> Case:
    steps, device = arguments.steps, arguments.device
    model = network(config, arguments.seed, device)
    plain = PlainUNet(model.unet)
    source = np.random.default_rng(arguments.seed)
    images = source.integers(0, 256, (max(arguments.batches), 3, 32, 32), dtype=np.uint8)
    ids = np.arange(len(images))
    ours = {p: diffusion_steps(model, Diffusion(steps=steps), p) for p in TYPES}

    def purify(batch: int, precision: str) -> NDArray[np.uint8]:
        rows = images[:batch], ids[:batch]
        return purify_images(*rows, ours[precision], 0, batch_size=batch, device=device)

    def check() -> dict[str, float | bool]:
        few = min(8, len(images))
        z = row_noise(0, ids[:few], (3, 32, 32), device)
        expected = straightforward(images[:few], plain, steps, z).astype(int)
        apart = {p: float(np.abs(purify(few, p) - expected).mean()) for p in TYPES}
        return {
            "grey levels apart, fp32": apart["fp32"],
            "grey levels apart, bf16": apart["bf16"],
            "equal": apart["fp32"] < 0.01,
        }

    forms = []
    for batch in arguments.batches:
        some = images[:batch]
        options = {"count": batch * steps, "variant": f"batch {batch}"}
        work = lambda some=some: straightforward(some, plain, steps)  # noqa: E731
        forms.append(Form(STRAIGHTFORWARD, work, precision="fp32", **options))
        for p in native(device):
            work = lambda batch=batch, p=p: purify(batch, p)  # noqa: E731
            forms.append(Form(f"ours, {p}", work, precision=p, **options))
    name = "the small network" if size == "small" else f"the published network, width {size}"
    what = f"Diffusion purification, {name}, {steps} steps"
    return Case(what, "image and step", forms, check, TARGET)


def main() -> None:
    """Compare the forms for each network."""
    made = parser(__doc__)
    made.add_argument(
        "--networks", nargs="+", default=["small", "128"], choices=["small", "32", "64", "128"],
        help="the default for CPUs, or the widths of the published ones",
    )  # fmt: skip
    made.add_argument("--batches", type=int, nargs="+", default=[16, 64], help="batch sizes")
    made.add_argument("--steps", type=int, default=4, help="time steps, all of them reversed")
    run("ddpm_purification", made, cases)


if __name__ == "__main__":
    main()
