"""NTGA on one block of images: the gradient through an infinite network, and steps along its sign.

The objective is the cross-entropy on clean validation images of a network that was trained on the
block for a time; the block's pixels move so that it rises.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from attacks._ntk import Features, Kernel, trained_weights

VALUES_PER_TILE = {"cpu": 1 << 20}  # float32 values of one tensor: what a core's cache holds
VALUES_ELSEWHERE = 1 << 27  # about 4 GB for all tensors of a tile on a GPU


@dataclass(frozen=True, slots=True)
class Labelled:
    """Images on a device with their classes.

    Attributes:
        x: Float (N, C, H, W) in [0, 1].
        y: int64 (N,).
    """

    x: Tensor
    y: Tensor


@dataclass(frozen=True, slots=True)
class Objective:
    """What the attacker raises.

    Attributes:
        kernel: Of the surrogate.
        validation: Clean images that the surrogate shall get wrong.
        num_classes: Of both sets.
        time: Training time of the surrogate.
    """

    kernel: Kernel
    validation: Labelled
    num_classes: int
    time: float

    def _side(self, x: Tensor) -> int:
        """Images per side of a tile of pairs; it changes speed and memory, and sums' order."""
        values = VALUES_PER_TILE.get(x.device.type, VALUES_ELSEWHERE)
        return max(1, math.isqrt(values // self.kernel.values_per_pair))

    def _weights(self, gram: Tensor, y: Tensor) -> Tensor:
        targets = F.one_hot(y, self.num_classes).double()
        return trained_weights(gram, targets, self.time)

    def _losses(self, parts: Sequence[Features], weights: Tensor, side: int) -> Iterator[Tensor]:
        """Yield the summed loss of chunks of validation images."""
        chunks = zip(
            torch.split(self.validation.x, side), torch.split(self.validation.y, side), strict=True
        )
        for x, y in chunks:
            seen = self.kernel.features(x)
            rows = torch.cat([self.kernel.theta(seen, part) for part in parts], 1)
            yield F.cross_entropy(rows.double() @ weights, y, reduction="sum")

    def loss(self, block: Labelled) -> float:
        """Return the mean loss per validation image after training on the block."""
        side = self._side(block.x)
        with torch.no_grad():
            parts = [self.kernel.features(x) for x in torch.split(block.x, side)]
            weights = self._weights(gram_matrix(self.kernel, parts), block.y)
            total = sum(self._losses(parts, weights, side), torch.zeros(()))
        return float(total) / len(self.validation.y)

    def gradient(self, block: Labelled) -> Tensor:
        """Return the gradient of the summed loss by the block's pixels.

        The graph of all pairs would not fit into memory. So the loss is first differentiated by
        features and weights, one chunk of validation images at a time, then the weights by the
        block's own kernel, which is computed again tile by tile, and last the features by pixels.
        """
        side = self._side(block.x)
        x = block.x.detach().requires_grad_()
        graph = [self.kernel.features(part) for part in torch.split(x, side)]
        leaves = [tuple(f.detach().requires_grad_() for f in part) for part in graph]
        gram = gram_matrix(self.kernel, leaves).requires_grad_()
        weights = self._weights(gram, block.y)
        leaf = weights.detach().requires_grad_()
        for loss in self._losses(leaves, leaf, side):
            loss.backward()  # type: ignore[no-untyped-call]
        by_gram = torch.autograd.grad(weights, gram, leaf.grad)[0].to(x.dtype)
        for i, j, tile in _upper_tiles(by_gram, side):
            factor = 1 if i == j else 2  # the tile below the diagonal is its mirror image
            self.kernel.theta(leaves[i], leaves[j]).backward(factor * tile)  # type: ignore[no-untyped-call]
        features = [feature for part in graph for feature in part]
        by_features = [feature.grad for part in leaves for feature in part]
        return torch.autograd.grad(features, x, by_features)[0]


def _upper_tiles(matrix: Tensor, side: int) -> Iterator[tuple[int, int, Tensor]]:
    """Yield the tiles on and above the diagonal with their position in tiles."""
    for i, rows in enumerate(torch.split(matrix, side)):
        for j, tile in enumerate(torch.split(rows, side, 1)):
            if i <= j:
                yield i, j, tile


def gram_matrix(kernel: Kernel, parts: Sequence[Features]) -> Tensor:
    """Return the kernel of a set with itself, float64 (N, N), symmetric to the bit; no graph."""
    sizes = [part[0].shape[1] for part in parts]
    first = parts[0][0]
    gram = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64, device=first.device)
    with torch.no_grad():
        for i, j, tile in _upper_tiles(gram, sizes[0]):
            tile.copy_(kernel.theta(parts[i], parts[j]))
    upper = gram.triu()
    return upper + upper.triu(1).T


def perturb(
    objective: Objective, block: Labelled, eps: float, steps: int, step_size: float
) -> Tensor:
    """Return the perturbation of a block, float (N, C, H, W) within ``eps`` of 0.

    Args:
        objective: What rises.
        block: Clean images.
        eps: Linf bound in units of [0, 1].
        steps: Projected sign steps.
        step_size: Length of one, in the same units.
    """
    x = block.x
    for _ in range(steps):
        raised = x + step_size * objective.gradient(Labelled(x, block.y)).sign()
        x = (block.x + (raised - block.x).clamp(-eps, eps)).clamp(0, 1)
    return x - block.x
