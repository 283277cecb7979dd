"""Feature Collision's own algorithm: a step towards the target's features, a step back to the base.

Forward-backward splitting for many base images at once, each with a step size of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks._surrogate_features import FeatureReader
from harness.core.errors import DataError
from harness.core.pixels import add_within, to_bytes, to_float
from harness.training import Predictor

_LOOK_EVERY = 10  # iterations between two looks whether all images are done: each waits for a GPU


@dataclass(frozen=True, slots=True, kw_only=True)
class Collision:
    """How poisons approach the target.

    Attributes:
        iterations: Most steps; 120 in *Just How Toxic*.
        watermark: Share of the target image in the start, in [0, 1); 0.3 published.
        step: First step size, on the gradient of the squared distance of features by pixels in
            [0, 1]; 0.001 published, for its networks. Too large a step is found out and costs an
            iteration per factor of ``shrink``; too small a one is never found out.
        shrink: Factor on an image's step size when a step would raise its objective.
        tolerance: An image stays when a step lowers its objective by less than this share.
        beta: Weight of the distance from the base image where there is no Linf bound; 4.0 published
            for networks that normalise their input, as all here do, and 0.1 for others.
    """

    iterations: int = 120
    watermark: float = 0.3
    step: float = 0.001
    shrink: float = 0.2
    tolerance: float = 1e-5
    beta: float = 4.0

    def __post_init__(self) -> None:
        if self.iterations < 1 or not 0 <= self.watermark < 1:
            raise DataError(
                "iterations must be at least 1 and watermark in [0, 1); "
                f"got {self.iterations} and {self.watermark}."
            )
        if not self.step > 0 or not 0 < self.shrink < 1 or min(self.tolerance, self.beta) < 0:
            raise DataError(
                "step must be above 0, shrink in (0, 1), tolerance and beta not negative; "
                f"got {self.step}, {self.shrink}, {self.tolerance} and {self.beta}."
            )


@dataclass(frozen=True, slots=True, eq=False)
class Crafted:
    """Poisons of one target, and how they came to be.

    Attributes:
        images: uint8 (P, C, H, W).
        history: float64 (iterations + 1, P): the objective of the start and after each iteration,
            of images before they were rounded; it never rises.
        distance_before, distance: float64 (P,): squared distance of the bases' and of ``images``'
            features from the target's, summed over networks.
    """

    images: NDArray[np.uint8]
    history: NDArray[np.float64]
    distance_before: NDArray[np.float64]
    distance: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class _Problem:
    readers: tuple[FeatureReader, ...]
    aims: tuple[Tensor, ...]
    base: Tensor
    eps: float | None
    beta: float

    def distance(self, x: Tensor) -> Tensor:
        """Return squared distances of features from the target's, summed over networks, (P,)."""
        x = x.contiguous(memory_format=torch.channels_last)
        each = [
            (reader.read(x, 1)[-1][0] - aim).square().sum(1)
            for reader, aim in zip(self.readers, self.aims, strict=True)
        ]
        return torch.stack(each).sum(0)

    def objective(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return the objective (P,) and the gradient of the distance in ``x``."""
        x = x.detach().requires_grad_()
        distance = self.distance(x)
        (gradient,) = torch.autograd.grad(distance.sum(), [x])
        value = distance.detach()
        if self.eps is None:
            value = value + self.beta * (x.detach() - self.base).square().sum((1, 2, 3))
        return value, gradient

    def back(self, x: Tensor, step: Tensor | None = None) -> Tensor:
        """Return images taken back to the base: into the bound, or by the weight on its pixels."""
        if self.eps is not None:
            x = self.base + (x - self.base).clamp(-self.eps, self.eps)
        elif step is not None:
            x = (x + step * self.beta * self.base) / (1 + step * self.beta)
        return x.clamp(0, 1)


def craft(
    target: NDArray[np.uint8],
    bases: NDArray[np.uint8],
    surrogates: Sequence[Predictor],
    eps_255: int | None,
    collision: Collision,
) -> Crafted:
    """Move each base image until its features are the target's; no draw is made.

    Args:
        target: uint8 (C, H, W).
        bases: uint8 (P, C, H, W).
        surrogates: Networks whose features are matched together; they are copied.
        eps_255: Linf bound in grey levels, or None for the paper's form: a weight on the distance
            of pixels instead of a bound.
        collision: Settings.

    Source: Poison Frogs, arXiv 1804.00792, algorithm 1; the bound and the step control as in
    *Just How Toxic is Data Poisoning?*, arXiv 2006.12557.

    Raises:
        DataError: If features are not finite.
    """
    readers = tuple(
        FeatureReader(s, with_map=False, layer="", dropout=0.0, repeats=1) for s in surrogates
    )
    base, goal = to_float(bases, readers[0].device), to_float(target[None], readers[0].device)
    eps = None if eps_255 is None else eps_255 / 255
    with torch.no_grad():
        aims = tuple(reader.read(goal, 1)[-1][0] for reader in readers)
    problem = _Problem(readers, aims, base, eps, collision.beta)
    x, history = _descend(problem, goal, collision)
    images = add_within(bases, (x - base).cpu().numpy(), eps_255) if eps_255 else to_bytes(x)
    with torch.no_grad():
        before, after = (problem.distance(to_float(i, base.device)) for i in (bases, images))
    found = Crafted(images, *(v.double().cpu().numpy() for v in (history, before, after)))
    if not np.all(np.isfinite(found.history)):
        raise DataError("the features of the start are not finite; look at the networks.")
    return found


def _descend(problem: _Problem, goal: Tensor, collision: Collision) -> tuple[Tensor, Tensor]:
    """Return the images (P, C, H, W) and the history of their objectives."""
    share = collision.watermark
    # Taken into the bound first: no later step could compete with a start that breaks it.
    x = problem.back(share * goal + (1 - share) * problem.base)
    value, gradient = problem.objective(x)
    step = torch.full_like(value, collision.step)[:, None, None, None]
    going = torch.ones_like(value, dtype=torch.bool)
    history = [value]
    for iteration in range(collision.iterations):
        further = problem.back(x - step * gradient, step)
        new_value, new_gradient = problem.objective(further)
        taken = going & (new_value <= value)
        little = value - new_value < collision.tolerance * value
        each = taken[:, None, None, None]
        x, gradient = torch.where(each, further, x), torch.where(each, new_gradient, gradient)
        value = torch.where(taken, new_value, value)
        step = torch.where((going & ~taken)[:, None, None, None], collision.shrink * step, step)
        going = going & ~(taken & little)
        history.append(value)
        if iteration % _LOOK_EVERY == _LOOK_EVERY - 1 and not bool(going.any()):
            break
    rest = collision.iterations + 1 - len(history)
    return x, torch.stack(history + [value] * rest)
