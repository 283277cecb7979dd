"""How fast diffusion purification is, with equal steps and with fewer, against the plain form.

Both take the same ancestral steps with the same random U-Net, from uint8 images to uint8 images.
The straightforward side is the network of diffusers as it stands there: float32, NCHW order,
torch's group normalisation, the time embedding computed anew in each step. A second case is the
published sampler, one call of the network per time step, against a faster sampler of fewer calls.

    OMP_NUM_THREADS=1 python benchmarks/ddpm_purification.py --out ddpm_purification.json
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from _frame import STRAIGHTFORWARD, TYPES, Case, Form, native, parser, run
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses._purify import Purifier, diffusion_steps, purify_images
from generative.ddpm import DDPM, Diffusion, alpha_bar
from generative.noise import row_noise
from generative.unet import UNet, UNetConfig, _Attention, _Block, _Norm, _Resnet, published

TARGET = 2.0
FEWER_TARGET = 6.0
FEWER_SAMPLER = "dpmpp_2m_sde_half"


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


@dataclass(frozen=True, slots=True)
class _Setting:
    """A network in both forms, and images uint8 (N, 3, 32, 32) for the largest batch."""

    name: str
    model: DDPM
    plain: PlainUNet
    images: NDArray[np.uint8]
    device: str

    def purify(self, purifier: Purifier, batch: int) -> NDArray[np.uint8]:
        """Purify the first so many images in one batch."""
        rows = self.images[:batch], np.arange(batch)
        return purify_images(*rows, purifier, 0, batch_size=batch, device=self.device)


def _setting(size: str, arguments: argparse.Namespace) -> _Setting:
    config = UNetConfig() if size == "small" else published(int(size))
    name = "the small network" if size == "small" else f"the published network, width {size}"
    model = network(config, arguments.seed, arguments.device)
    source = np.random.default_rng(arguments.seed)
    images = source.integers(0, 256, (max(arguments.batches), 3, 32, 32), dtype=np.uint8)
    return _Setting(name, model, PlainUNet(model.unet), images, arguments.device)


def cases(arguments: argparse.Namespace) -> Iterator[Case]:
    """Yield two cases per network: as many calls, and fewer."""
    for size in arguments.networks:
        setting = _setting(size, arguments)
        yield _equal_steps(setting, arguments)
        if arguments.calls:
            yield _fewer_calls(setting, arguments)


def _equal_steps(setting: _Setting, arguments: argparse.Namespace) -> Case:
    steps, device = arguments.steps, arguments.device
    ours = {p: diffusion_steps(setting.model, Diffusion(steps=steps), p) for p in TYPES}

    def check() -> dict[str, float | bool | str]:
        few = min(8, len(setting.images))
        z = row_noise(0, np.arange(few), (3, 32, 32), device)
        expected = straightforward(setting.images[:few], setting.plain, steps, z).astype(int)
        apart = {p: float(np.abs(setting.purify(ours[p], few) - expected).mean()) for p in TYPES}
        return {
            "grey levels apart, fp32": apart["fp32"],
            "grey levels apart, bf16": apart["bf16"],
            "equal": apart["fp32"] < 0.01,
        }

    sides = {f"ours, {p}": (p, ours[p]) for p in native(device)}
    forms = _forms(setting, arguments.batches, steps, steps, sides)
    what = f"Diffusion purification, {setting.name}, {steps} steps"
    return Case(what, "image and step", forms, check, TARGET)


def _fewer_calls(setting: _Setting, arguments: argparse.Namespace) -> Case:
    """Return the case of unequal samplers: what they do to images is not compared here."""
    sides = {}
    for p in native(arguments.device):
        for calls in arguments.calls:
            diffusion = Diffusion(
                steps=arguments.time_steps, sampler=FEWER_SAMPLER, network_calls=calls
            )
            side = f"ours, {p}, `{FEWER_SAMPLER}`, {calls} calls"
            sides[side] = p, diffusion_steps(setting.model, diffusion, p)
    forms = _forms(setting, arguments.batches, arguments.time_steps, 1, sides)
    what = f"Diffusion purification, {setting.name}, {arguments.time_steps} time steps, fewer calls"
    effect = "other samplers, not the same images: docs/defenses.md has what they do"
    return Case(what, "image", forms, lambda: {"effect": effect}, FEWER_TARGET)


def _forms(
    setting: _Setting, batches: Sequence[int], steps: int, counted: int,
    sides: dict[str, tuple[str, Purifier]],
) -> list[Form]:  # fmt: skip
    """Return the published sampler in its straightforward form, and other sides, at each batch."""
    forms = []
    for batch in batches:
        some = setting.images[:batch]
        options = {"count": batch * counted, "variant": f"batch {batch}"}
        work = lambda some=some: straightforward(some, setting.plain, steps)  # noqa: E731
        forms.append(Form(STRAIGHTFORWARD, work, precision="fp32", **options))
        for side, (p, purifier) in sides.items():
            work = lambda batch=batch, purifier=purifier: setting.purify(purifier, batch)  # noqa: E731
            forms.append(Form(side, work, precision=p, **options))
    return forms


def main() -> None:
    """Compare the forms for each network."""
    made = parser(__doc__)
    made.add_argument(
        "--networks", nargs="+", default=["small", "128"], choices=["small", "32", "64", "128"],
        help="the default for CPUs, or the widths of the published ones",
    )  # fmt: skip
    made.add_argument("--batches", type=int, nargs="+", default=[16, 64], help="batch sizes")
    made.add_argument("--steps", type=int, default=4, help="time steps, all of them reversed")
    made.add_argument("--calls", type=int, nargs="*", default=[8], help="of the faster sampler")
    made.add_argument("--time-steps", type=int, default=50, help="that the fewer calls stand for")
    run("ddpm_purification", made, cases)


if __name__ == "__main__":
    main()
