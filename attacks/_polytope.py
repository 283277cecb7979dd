"""Poisons whose features enclose a target's, so that a head that learns them takes it along.

One loop crafts for three published attacks, which differ in what must meet the target's features:
the poisons' mean (Bullseye Polytope, arXiv 2005.00191), the best point of their convex hull (Convex
Polytope, arXiv 1905.05897), or each poison (Feature Collision, arXiv 1804.00792). Shapes below:
T targets, k poisons of each; features of one layer are (T, k, D), or maps (T, k, C, H, W).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from attacks._surrogate_features import FeatureReader
from harness.core.errors import DataError
from harness.core.optimizers import Adam
from harness.core.pixels import add_within, to_float
from harness.core.seeds import torch_generator
from harness.training import Predictor

Center = Literal["mean", "convex", "each"]
Layers = list[Tensor]

SIMPLEX_STEPS = 30  # per update of the poisons, from the last coefficients on
SIMPLEX_STEPS_ALONE = 1000  # from equal coefficients
_BATCH = 512  # images whose features are read at once, where no gradient is needed


@dataclass(frozen=True, slots=True, kw_only=True)
class Crafting:
    """What must meet the target's features, where in the networks, and how long is sought.

    The published code steps by 0.04 in units of its standard deviations: 0.08 of its bound. It
    takes the target's features under one draw of dropout, here they are averaged like the poisons'.

    Attributes:
        mode: ``linear`` matches the features that the head reads; ``end_to_end`` a map before
            them as well, for victims that train all layers.
        center: The poisons' ``mean`` (Bullseye Polytope), the nearest point of their ``convex``
            hull (Convex Polytope), or ``each`` poison alone (the objective of Feature Collision).
        iterations: Updates of the poisons; 800 linear, 1500 end-to-end, 4000 for ``convex``.
        lr: Step of Adam as a share of the bound.
        net_repeat: Passes through each network under different dropout, whose features are
            averaged before the loss (the paper's BP-3x, BP-5x).
        dropout: Rate before each convolution but the first, in [0, 1). Published surrogates were
            trained with theirs, 0.2 to 0.3; on networks trained without, it weakens the attack.
        layer: Submodule whose output is the map of ``end_to_end``, for example
            ``body.layer4.0``; empty: what the last convolution reads.
    """

    mode: Literal["linear", "end_to_end"] = "linear"
    center: Center = "mean"
    iterations: int = 800
    lr: float = 0.08
    net_repeat: int = 1
    dropout: float = 0.0
    layer: str = ""

    def __post_init__(self) -> None:
        if min(self.iterations, self.net_repeat) < 1 or not self.lr > 0:
            raise DataError(
                "iterations and net_repeat must be at least 1 and lr positive; "
                f"got {self.iterations}, {self.net_repeat} and {self.lr}."
            )
        if not 0 <= self.dropout < 1:
            raise DataError(f"dropout is a rate in [0, 1); got {self.dropout}.")
        if self.net_repeat > 1 and not self.dropout:
            raise DataError(
                f"net_repeat {self.net_repeat} without dropout repeats the same numbers; "
                "give a dropout, or net_repeat 1."
            )
        if self.layer and self.mode == "linear":
            raise DataError(f"layer {self.layer!r} is given; only mode 'end_to_end' matches one.")


@dataclass(frozen=True, slots=True)
class Crafted:
    """Poisons, and how near their features came, one number per target.

    Attributes:
        images: uint8 (T, k, C, H, W).
        loss_before, loss_after: float64 (T,), of the bases and of ``images``, without dropout.
        distance: float64 (T,), from the poisons' mean to the target's features before the head,
            as a share of the latter's length, meaned over networks.
    """

    images: NDArray[np.uint8]
    loss_before: NDArray[np.float64]
    loss_after: NDArray[np.float64]
    distance: NDArray[np.float64]


def craft(
    targets: NDArray[np.uint8],
    bases: NDArray[np.uint8],
    surrogates: Sequence[Predictor],
    eps_255: int,
    crafting: Crafting,
    seeds: Sequence[int],
) -> Crafted:
    """Craft the poisons of several targets at once: all go through each network in one batch.

    Args:
        targets: uint8 (T, C, H, W).
        bases: uint8 (T, k, C, H, W), the images that become poisons.
        surrogates: Networks whose features are matched; they are copied.
        eps_255: Linf bound in grey levels.
        crafting: Settings.
        seeds: One per target, source of its dropout: a target's poisons are the same alone.

    Source: Bullseye Polytope, arXiv 2005.00191, section 3; Adam and its projection as in its code.

    Raises:
        DataError: If the shapes disagree, or the loss is not finite.
    """
    _check_shapes(targets, bases, surrogates, seeds)
    readers = [
        FeatureReader(
            surrogate, with_map=crafting.mode == "end_to_end", layer=crafting.layer,
            dropout=crafting.dropout, repeats=crafting.net_repeat,
        )
        for surrogate in surrogates
    ]  # fmt: skip
    device = readers[0].device
    start = to_float(bases.reshape(-1, *bases.shape[2:]), device)
    start = start.contiguous(memory_format=torch.channels_last)
    masks = [torch_generator(s, "dropout", device=device) for s in seeds]
    # Dropout moves the mean of features, not only their spread: the aims have to move with it.
    drawn = masks if crafting.dropout else None
    aims = [_aims(reader, targets, drawn) for reader in readers]
    x = _optimise(start, readers, aims, eps_255 / 255, crafting, masks)
    delta: NDArray[np.float32] = (x - start).cpu().numpy()
    images = add_within(bases, delta.reshape(bases.shape), eps_255)
    aims = [_aims(reader, targets) for reader in readers]
    before, _ = _measure(bases, readers, aims, crafting.center)
    after, distance = _measure(images, readers, aims, crafting.center)
    if not np.all(np.isfinite(after)):
        raise DataError("the loss of the poisons is not finite; lower lr, or look at the networks.")
    return Crafted(images, before, after, distance)


def _check_shapes(
    targets: NDArray[np.uint8],
    bases: NDArray[np.uint8],
    surrogates: Sequence[Predictor],
    seeds: Sequence[int],
) -> None:
    if targets.ndim != 4 or bases.ndim != 5 or bases[:, 0].shape != targets.shape:
        raise DataError(
            "targets are (T, C, H, W) and bases (T, k, C, H, W) of the same size; "
            f"got {targets.shape} and {bases.shape}."
        )
    if not len(surrogates) or len(seeds) != len(targets):
        raise DataError(
            f"needs a surrogate and a seed per target; got {len(surrogates)} surrogates, "
            f"{len(seeds)} seeds and {len(targets)} targets."
        )


def _optimise(
    start: Tensor,
    readers: Sequence[FeatureReader],
    aims: Sequence[Layers],
    eps: float,
    crafting: Crafting,
    masks: Sequence[torch.Generator],
) -> Tensor:
    """Return float (T*k, C, H, W) in [0, 1] within ``eps`` of ``start``."""
    low, high = (start - eps).clamp_(min=0), (start + eps).clamp_(max=1)
    x = start.clone().requires_grad_()
    adam = Adam([x], lr=crafting.lr * eps)
    coefficients: list[Tensor | None] = [None] * len(readers)
    for _ in range(crafting.iterations):
        gradient = torch.zeros_like(x)
        for index, reader in enumerate(readers):
            layers = reader.read(x, len(masks), masks if crafting.dropout else None)
            if crafting.center == "convex":
                coefficients[index] = fit_coefficients(layers, aims[index], coefficients[index])
            # The sum, not the mean: a target's steps do not depend on how many are crafted.
            loss = net_loss(layers, aims[index], crafting.center, coefficients[index]).sum()
            gradient += torch.autograd.grad(loss, [x])[0]
        x.grad = gradient.div_(len(readers))
        adam.step()
        with torch.no_grad():
            x.clamp_(low, high)
    return x.detach()


def _aims(
    reader: FeatureReader,
    targets: NDArray[np.uint8],
    masks: Sequence[torch.Generator] | None = None,
) -> Layers:
    """Return the layers' features of the targets, (T, D) or (T, C, H, W)."""
    return [layer[:, 0] for layer in _features(reader, targets[:, None], masks)]


def _features(
    reader: FeatureReader,
    images: NDArray[np.uint8],
    masks: Sequence[torch.Generator] | None = None,
) -> Layers:
    """Return the layers' features of stored images (T, k, C, H, W)."""
    x = to_float(images.reshape(-1, *images.shape[2:]), reader.device)
    with torch.no_grad():
        return reader.read(x.contiguous(memory_format=torch.channels_last), len(images), masks)


def _measure(
    images: NDArray[np.uint8],
    readers: Sequence[FeatureReader],
    aims: Sequence[Layers],
    center: Center,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return loss and relative distance before the head, both (T,), meaned over networks."""
    losses, distances = [], []
    for reader, aim in zip(readers, aims, strict=True):
        layers = _features(reader, images)
        best = None
        if center == "convex":
            best = fit_coefficients(layers, aim, None, SIMPLEX_STEPS_ALONE)
        losses.append(net_loss(layers, aim, center, best))
        distances.append(bullseye_loss(layers[-1], aim[-1]))
    loss, distance = (torch.stack(v).mean(0).cpu().numpy() for v in (losses, distances))
    return loss.astype(np.float64), distance.astype(np.float64)


def squared_distances(
    target: NDArray[np.uint8], images: NDArray[np.uint8], surrogates: Sequence[Predictor]
) -> NDArray[np.float64]:
    """Return how far images' features lie from a target's, squared and summed over networks, (N,).

    Args:
        target: uint8 (C, H, W).
        images: uint8 (N, C, H, W).
        surrogates: The networks; the features are those before their heads.
    """
    total = np.zeros(len(images))
    for surrogate in surrogates:
        reader = FeatureReader(surrogate, with_map=False, layer="", dropout=0.0, repeats=1)
        parts = [images[i : i + _BATCH] for i in range(0, len(images), _BATCH)]
        features = torch.cat([_features(reader, part[None])[-1][0] for part in parts])
        (goal,) = _features(reader, target[None, None])[-1][0]
        total += (features - goal).square().sum(1).cpu().numpy()
    return total


def net_loss(layers: Layers, aims: Layers, center: Center, coefficients: Tensor | None) -> Tensor:
    """Return the loss (T,) of one network, meaned over its layers.

    ``coefficients`` (L, T, k), one set per layer, are those of ``convex``.
    """
    if center == "convex" and coefficients is not None:
        each = [
            convex_loss(f, t, c)
            for f, t, c in zip(layers, aims, coefficients.unbind(), strict=True)
        ]
    else:
        rule = collision_loss if center == "each" else bullseye_loss
        each = [rule(f, t) for f, t in zip(layers, aims, strict=True)]
    return torch.stack(each).mean(0)


def _relative(difference: Tensor, target: Tensor, is_map: bool) -> Tensor:
    """Return ``|difference| / |target|``, Euclidean: (...,) of vectors (..., D).

    Of maps (..., C, H, W) it is the mean over positions, each with its own length. A position where
    the target is silent has no ratio, and no part in the mean.
    """
    axis = -3 if is_map else -1
    apart: Tensor = torch.linalg.vector_norm(difference, dim=axis)
    length: Tensor = torch.linalg.vector_norm(target, dim=axis)
    if not is_map:
        return apart / length
    heard = length > 0
    ratio = heard * apart / length.where(heard, 1.0)  # a division by 0 would spoil the gradient
    return ratio.sum((-2, -1)) / heard.sum((-2, -1))


def bullseye_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return ``|mean_i f_i - t| / |t|``, (T,): the length is not squared, as in the code.

    Args:
        features: (T, k, D) or (T, k, C, H, W).
        target: (T, D) or (T, C, H, W).
    """
    return _relative(features.mean(1) - target, target, target.ndim == 4)


def collision_loss(features: Tensor, target: Tensor) -> Tensor:
    """Return ``mean_i |f_i - t| / |t|``, (T,): each poison alone (see :func:`bullseye_loss`)."""
    target = target[:, None]
    return _relative(features - target, target, target.ndim == 5).mean(1)


def convex_loss(features: Tensor, target: Tensor, coefficients: Tensor) -> Tensor:
    """Return ``0.5 |sum_i c_i f_i - t|² / |t|²``, (T,), of maps as one long vector.

    Args:
        features: (T, k, ...).
        target: (T, ...).
        coefficients: (T, k), each row on the simplex.

    Source: Convex Polytope, arXiv 1905.05897, equation 2.
    """
    point = torch.einsum("tk,tkd->td", coefficients, features.flatten(2))
    wanted = target.flatten(1)
    return 0.5 * (point - wanted).square().sum(1) / wanted.square().sum(1)


def fit_coefficients(
    layers: Layers, aims: Layers, start: Tensor | None, steps: int = SIMPLEX_STEPS
) -> Tensor:
    """Return the coefficients (L, T, k) of the hull's points nearest to the targets, per layer.

    ``start`` are those of before, or None for equal ones.
    """
    with torch.no_grad():
        grams = []
        for features, target in zip(layers, aims, strict=True):
            # On the simplex sum_i c_i f_i - t = sum_i c_i (f_i - t): the quadratic form of the
            # differences says it all, without the large part that all features share.
            differences = (features - target[:, None]).flatten(2)
            grams.append(differences @ differences.mT)
        gram = torch.stack(grams)
        equal = torch.full_like(gram[..., 0], 1 / gram.shape[-1])
        return nearest_on_simplex(gram, equal if start is None else start, steps)


def nearest_on_simplex(gram: Tensor, start: Tensor, steps: int) -> Tensor:
    """Return ``argmin_c 0.5 c' G c`` over the simplex, by projected gradient from ``start``.

    A fixed number of steps of 1/L, where L, the largest row sum, bounds the largest eigenvalue: the
    form never grows, and nothing waits for the device.

    Args:
        gram: (..., k, k), positive semidefinite.
        start: (..., k), on the simplex.
        steps: Number of steps.
    """
    largest = gram.abs().sum(-1).amax(-1, keepdim=True)
    step = 1 / largest.clamp_min(torch.finfo(gram.dtype).tiny)
    c = start
    for _ in range(steps):
        c = project_simplex(c - step * (gram @ c[..., None])[..., 0])
    return c


def project_simplex(v: Tensor) -> Tensor:
    """Return the nearest point (..., k) with non-negative entries that sum to 1.

    >>> project_simplex(torch.tensor([0.5, 1.5, -3.0])).tolist()
    [0.0, 1.0, 0.0]
    """
    falling = v.sort(-1, descending=True).values
    excess = falling.cumsum(-1) - 1
    rank = torch.arange(1, v.shape[-1] + 1, device=v.device, dtype=v.dtype)
    support = (falling * rank > excess).sum(-1, keepdim=True).clamp_min(1)
    shift = excess.gather(-1, support - 1) / support
    return (v - shift).clamp_min(0)
