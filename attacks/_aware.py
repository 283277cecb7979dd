"""The defense in the hands of an attacker who knows it: Langevin steps and a gradient through them.

PureGen (arXiv 2405.18627) tests its defense against such an attacker: the surrogate learns from
purified images, the trigger is sought on purified images, or both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd.function import once_differentiable

from generative.ebm import EBM, FoldedEnergy, folded_energy
from generative.langevin import STEP_SIZE, TEMPERATURE, Energy, langevin
from generative.noise import row_noise
from harness.core.device import pick_dtype
from harness.core.pixels import to_bytes, to_float
from harness.core.seeds import torch_generator

Place = Literal["no", "surrogate", "search", "both"]
Gradient = Literal["full", "secant", "straight_through"]
# State x and vector v, both (B, C, H, W) → H(x) v, the energies' Hessians times the vector.
HessianProduct = Callable[[Tensor, Tensor], Tensor]

BATCH = 128  # images in flight where none is trained on; it changes no byte


@dataclass(frozen=True, slots=True)
class Aware:
    """What an attacker knows of the defense, and where the knowledge is used.

    Attributes:
        ebm: Energy network of the defense.
        place: Where images are purified.
        steps: Langevin steps.
        gradient: How the search goes back through them (see :func:`purifier`).
    """

    ebm: EBM
    place: Place
    steps: int
    gradient: Gradient = "straight_through"

    @property
    def in_surrogate(self) -> bool:
        """Whether the surrogate learns from purified images."""
        return self.place in ("surrogate", "both")

    @property
    def in_search(self) -> bool:
        """Whether the trigger is sought on purified images."""
        return self.place in ("search", "both")


# The chain


class _Chain(torch.autograd.Function):
    """Langevin steps whose backward pass keeps the states and recomputes everything else."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        steps: int,
        energy: Energy,
        noise: Iterator[Tensor],
        product: HessianProduct,
        temperature: float,
        step_size: float,
    ) -> Tensor:
        ctx.product, ctx.rate = product, step_size**2 / (2 * temperature)
        ctx.states = []
        for _ in range(steps):
            ctx.states.append(x)
            x = langevin(x, 1, energy, noise, temperature=temperature, step_size=step_size)
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        # One step is x - rate dE/dx + noise, whose Jacobian I - rate H is symmetric.
        for x in reversed(ctx.states):
            grad = grad - ctx.rate * ctx.product(x, grad)
        return (grad, *[None] * 6)


class _StraightThrough(torch.autograd.Function):
    """Langevin steps that the backward pass takes for the identity."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        steps: int,
        energy: Energy,
        noise: Iterator[Tensor],
        temperature: float,
        step_size: float,
    ) -> Tensor:
        return langevin(x, steps, energy, noise, temperature=temperature, step_size=step_size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return (grad, *[None] * 5)


def langevin_through(
    x: Tensor,
    steps: int,
    energy: Energy,
    noise: Iterator[Tensor],
    product: HessianProduct | None,
    *,
    temperature: float = TEMPERATURE,
    step_size: float = STEP_SIZE,
) -> Tensor:
    """Run :func:`generative.langevin.langevin`, and let a gradient back through it.

    Memory: ``steps`` times the size of ``x``, and one step's graph; no graph of the chain.

    Args:
        x: float (B, C, H, W) in [-1, 1].
        steps: Number of steps, at least 1.
        energy: Energy network; its gradient need not be differentiable.
        noise: One standard normal tensor of the shape of ``x`` per step.
        product: Hessian-vector product of the energies, once per step of the backward pass; None
            takes the steps for the identity.
        temperature, step_size: As there.
    """
    if product is None:
        through: Tensor = _StraightThrough.apply(x, steps, energy, noise, temperature, step_size)
    else:
        through = _Chain.apply(x, steps, energy, noise, product, temperature, step_size)
    return through


def exact_product(energies: Callable[[Tensor], Tensor]) -> HessianProduct:
    """Return the Hessian-vector product by two passes of autograd through energies (B,)."""

    def product(x: Tensor, vector: Tensor) -> Tensor:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(energies(x).sum(), x, create_graph=True)
            (result,) = torch.autograd.grad(slope, x, vector)
        return result

    return product


def secant_product(energy: Energy, reach: float) -> HessianProduct:
    """Return the Hessian-vector product as a difference quotient over ``reach`` either way.

    A ReLU network's Hessian is zero almost everywhere: what bends its energy are the kinks between
    its linear pieces, which a derivative does not see and a difference over many pieces does.

    Args:
        energy: Energy network.
        reach: Root mean square, over the pixels of an image, of the step to each side.
    """

    def product(x: Tensor, vector: Tensor) -> Tensor:
        size = vector.square().mean((1, 2, 3), keepdim=True).sqrt()
        size = size.clamp_min(torch.finfo(size.dtype).tiny)
        aside = vector * (reach / size)
        rise = energy.input_gradient(x + aside) - energy.input_gradient(x - aside)
        return rise * (size / (2 * reach))

    return product


# On images


def purifier(aware: Aware) -> Callable[[Tensor, Iterator[Tensor]], Tensor]:
    """Return a function of images float32 (B, C, H, W) in [0, 1] and of noise: purified images.

    Its gradient through the steps is ``full``, the derivative; ``secant``, with each step's
    curvature measured over the width of its noise (see :func:`secant_product`), at about three
    times the cost of the steps; or ``straight_through``, the identity. The network being piecewise
    linear, ``full`` is the identity too, almost everywhere, and only slower; it is there because
    that is what autograd through the published defense computes.
    """
    ebm = aware.ebm
    device = next(ebm.parameters()).device
    energy = FoldedEnergy(ebm, pick_dtype("auto", device))
    product: HessianProduct | None = None
    if aware.gradient == "full":
        product = exact_product(lambda x: folded_energy(ebm, x))
    elif aware.gradient == "secant":  # in float32: bf16 would drown the difference
        product = secant_product(FoldedEnergy(ebm), STEP_SIZE)

    def purify(x01: Tensor, noise: Iterator[Tensor]) -> Tensor:
        x = langevin_through(x01.mul(2).sub(1), aware.steps, energy, noise, product)
        return x.add(1).div(2).clamp(0, 1)

    return purify


def fresh_noise(
    shape: torch.Size, device: torch.device, seed: int, *purpose: str | int
) -> Iterator[Tensor]:
    """Yield standard normal float32 tensors of one shape, forever, from one purpose's stream."""
    generator = torch_generator(seed, *purpose, device=device)
    while True:
        yield torch.randn(shape, generator=generator, device=device)


def purified(images: NDArray[np.uint8], aware: Aware, seed: int) -> NDArray[np.uint8]:
    """Return stored images (N, C, H, W) as the defense leaves them, uint8.

    Args:
        images: uint8 (N, C, H, W).
        aware: The defense.
        seed: Of the noise; a row's noise depends on it and the row's position alone.
    """
    device = next(aware.ebm.parameters()).device
    purify, result = purifier(aware), np.empty_like(images)
    with torch.no_grad():
        for start in range(0, len(images), BATCH):
            part = images[start : start + BATCH]
            rows = np.arange(start, start + len(part))
            _, channels, height, width = part.shape
            noise = row_noise(seed, rows, (channels, height, width), device)
            result[rows] = to_bytes(purify(to_float(part, device), noise))
    return result
