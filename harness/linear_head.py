"""Linear heads on fixed features: many trainings as one tensor problem.

The victim of a transfer attack trains only a softmax regression on a few hundred features. One
such training leaves any device idle; S of them, one per target, seed or defense, cost hardly more
than one when they run as batched matrix products.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from harness.core.errors import DataError
from harness.core.recipe import Recipe
from harness.training import make_optimizer


@dataclass(frozen=True, slots=True)
class LinearHeads:
    """S independent linear layers.

    Attributes:
        weight: (S, num_classes, D).
        bias: (S, num_classes).
    """

    weight: Tensor
    bias: Tensor

    def logits(self, features: Tensor) -> Tensor:
        """Return logits (S, N, num_classes) of features (N, D), or of each head's own (S, N, D)."""
        return features @ self.weight.mT + self.bias[:, None]


def train_heads(
    features: Tensor,
    labels: Tensor,
    num_classes: int,
    recipe: Recipe,
    rngs: Sequence[np.random.Generator],
    *,
    rows: Tensor | None = None,
    initial: LinearHeads | None = None,
) -> LinearHeads:
    """Train one softmax regression per generator, all at once; each is what it would be alone.

    Args:
        features: (N, D) shared by all heads, or (S, N, D).
        labels: int64 (N,), or (S, N); of the features, not of ``rows``.
        num_classes: Number of classes.
        recipe: Optimiser and schedule; what it says of augmentation and precision does not apply.
        rngs: S generators: each head's initial weights and order of rows.
        rows: int64 (S, n), the rows that each head is trained on, where they are not all: S
            poisoned sets in few features are all clean rows, all poisons, and which belong where.
        initial: Weights to start from; else uniform up to ``1/sqrt(D)``, as torch's layers.

    Returns:
        The heads, on the features' device and of their type.

    Raises:
        DataError: If shapes disagree, there is nothing to train on, or the weights are not finite.
    """
    rows = _check(features, labels, num_classes, len(rngs), rows)
    start = _fresh(features, num_classes, rngs) if initial is None else initial
    weight, bias = start.weight.clone(), start.bias.clone()
    # SGD and Adam work element by element, so that stacked heads do not see each other.
    optimizer = make_optimizer([weight, bias], recipe, axes=2)
    head = torch.arange(len(rngs), device=features.device)[:, None]
    for epoch in range(recipe.epochs):
        order = np.stack([rng.permutation(rows.shape[1]) for rng in rngs])
        shuffled = rows.gather(1, torch.from_numpy(order).to(rows.device))
        batches = torch.split(shuffled, recipe.batch_size, dim=1)
        for index, batch in enumerate(batches):
            progress = (epoch + (index + 1) / len(batches)) / recipe.epochs
            for group in optimizer.param_groups:
                group["lr"] = recipe.rate(progress, epoch)
            x = features[batch] if features.ndim == 2 else features[head, batch]
            y = labels[batch] if labels.ndim == 1 else labels[head, batch]
            weight.grad, bias.grad = _gradients(weight, bias, x, y, recipe.label_smoothing)
            optimizer.step()
    if not bool(torch.isfinite(weight).all()):
        raise DataError("the training of a head diverged: its weights are not finite; lower lr.")
    return LinearHeads(weight, bias)


def _check(
    features: Tensor, labels: Tensor, num_classes: int, heads: int, rows: Tensor | None
) -> Tensor:
    shared = features.ndim == 2
    if features.ndim not in (2, 3) or (not shared and len(features) != heads):
        raise DataError(
            f"features are (N, D), or (S, N, D) for S = {heads} heads; got {tuple(features.shape)}."
        )
    count = features.shape[-2]
    if tuple(labels.shape) not in ((count,), (heads, count)):
        raise DataError(
            f"labels are ({count},) or ({heads}, {count}), as the features; "
            f"got {tuple(labels.shape)}."
        )
    if rows is None:
        rows = torch.arange(count, device=features.device).expand(heads, -1)
    if rows.ndim != 2 or len(rows) != heads or not rows.numel():
        raise DataError(f"rows are (S, n), S = {heads}, n > 0; got {tuple(rows.shape)}.")
    if int(rows.min()) < 0 or int(rows.max()) >= count:
        raise DataError(f"rows must lie in 0..{count - 1}; got {rows.min()}..{rows.max()}.")
    if int(labels.min()) < 0 or int(labels.max()) >= num_classes:
        raise DataError(
            f"labels must lie in 0..{num_classes - 1}; got {labels.min()}..{labels.max()}."
        )
    return rows


def _fresh(features: Tensor, num_classes: int, rngs: Sequence[np.random.Generator]) -> LinearHeads:
    inputs = features.shape[-1]
    bound = 1 / np.sqrt(inputs)
    drawn = [rng.uniform(-bound, bound, (num_classes, inputs + 1)) for rng in rngs]
    both = torch.from_numpy(np.stack(drawn)).to(features.device, features.dtype)
    return LinearHeads(both[..., :-1].contiguous(), both[..., -1].contiguous())


def _gradients(
    weight: Tensor, bias: Tensor, x: Tensor, y: Tensor, label_smoothing: float
) -> tuple[Tensor, Tensor]:
    """Return the gradient of each head's mean cross-entropy: of logits, softmax minus label.

    Args:
        weight, bias: (S, C, D), (S, C).
        x: (S, B, D).
        y: int64 (S, B).
        label_smoothing: See :class:`harness.core.recipe.Recipe`.
    """
    logits = torch.baddbmm(bias[:, None], x, weight.mT)
    error = logits.softmax(-1).sub_(label_smoothing / weight.shape[1])
    hit = torch.full_like(y[..., None], label_smoothing - 1, dtype=error.dtype)
    error.scatter_add_(-1, y[..., None], hit).div_(x.shape[1])
    return error.mT @ x, error.sum(1)
