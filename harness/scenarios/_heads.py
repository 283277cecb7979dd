"""Victims that share a frozen network: its features once, their heads as one tensor problem."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.core.data import ImageSet
from harness.core.device import pick_dtype
from harness.core.recipe import Recipe
from harness.linear_head import LinearHeads, train_heads
from harness.scenarios._start import fresh_head, linear_head
from harness.training import Predictor

_BATCH = 128  # every batch is filled up to this, so that a row's features depend on no other row


class FrozenFeatures:
    """What a network's head reads, computed once for images that come again.

    Args:
        model: The network.
        recipe: Says in which precision it computes.
    """

    def __init__(self, model: nn.Module, recipe: Recipe) -> None:
        self.device = linear_head(model).weight.device
        self.predict = Predictor(model, pick_dtype(recipe.precision, self.device))
        self._whole: list[tuple[NDArray[np.uint8], Tensor]] = []

    def of(self, images: NDArray[np.uint8]) -> Tensor:
        """Return features, float32 (N, D), of uint8 images (N, C, H, W) that will be asked again.

        The test set of many victims is one array: it is known by its identity.
        """
        for known, features in self._whole:
            if known is images:
                return features
        features = self._compute(images)
        self._whole.append((images, features))
        return features

    def of_changed(self, images: NDArray[np.uint8], base: NDArray[np.uint8]) -> Tensor:
        """Return features of images of which few differ from those of ``base`` in their place."""
        if images is base:
            return self.of(images)
        if images.shape != base.shape:
            return self._compute(images)
        changed = np.any(images != base, axis=(1, 2, 3))
        features = self.of(base).clone()
        if changed.any():
            features[torch.from_numpy(changed).to(self.device)] = self._compute(images[changed])
        return features

    def _compute(self, images: NDArray[np.uint8]) -> Tensor:
        full = -(-len(images) // _BATCH) * _BATCH
        padded = np.zeros((full, *images.shape[1:]), np.uint8)
        padded[: len(images)] = images
        found = self.predict.features(padded, batch_size=_BATCH)[: len(images)]
        return torch.from_numpy(found).to(self.device)


@dataclass(frozen=True, slots=True)
class HeadPredictor:
    """One victim: shared features, its own head.

    Attributes:
        features: Of the frozen network.
        weight: (num_classes, D).
        bias: (num_classes,).
        loss: Mean cross-entropy of its training rows at the end.
    """

    features: FrozenFeatures
    weight: Tensor
    bias: Tensor
    loss: float

    @property
    def dtype(self) -> torch.dtype:
        """Type of the network's activations; the head computes in float32."""
        return self.features.predict.dtype

    def logits(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return logits, float32 (N, num_classes), of uint8 images (N, C, H, W)."""
        found: NDArray[np.float32] = (
            F.linear(self.features.of(images), self.weight, self.bias).cpu().numpy()
        )
        return found

    def __call__(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """Return predicted labels, int64 (N,)."""
        labels: NDArray[np.int64] = self.logits(images).argmax(1).astype(np.int64)
        return labels


def train_on_features(
    features: FrozenFeatures,
    trains: Sequence[ImageSet],
    recipe: Recipe,
    rngs: Sequence[np.random.Generator],
) -> list[HeadPredictor]:
    """Train one head per training set; each is, bit for bit, what it would be alone.

    Args:
        features: Of the network that the victims share.
        trains: Their training sets: usually the same rows, but for few.
        recipe: Of the heads.
        rngs: A generator each.
    """
    found: dict[int, HeadPredictor] = {}
    for size in sorted({len(train) for train in trains}):  # a filter leaves fewer rows
        alike = [i for i, train in enumerate(trains) if len(train) == size]
        base = trains[alike[0]].images
        x = torch.stack([features.of_changed(trains[i].images, base) for i in alike])
        y = torch.stack([torch.tensor(trains[i].labels) for i in alike]).to(x.device)
        classes = trains[alike[0]].num_classes
        fresh = [fresh_head(x.shape[-1], classes, rngs[i]) for i in alike]
        start = LinearHeads(
            torch.stack([head.weight.detach() for head in fresh]).to(x.device),
            torch.stack([head.bias.detach() for head in fresh]).to(x.device),
        )
        heads = train_heads(x, y, classes, recipe, [rngs[i] for i in alike], initial=start)
        logits = heads.logits(x).transpose(1, 2)
        losses = F.cross_entropy(
            logits, y, label_smoothing=recipe.label_smoothing, reduction="none"
        ).mean(1)
        for place, i in enumerate(alike):
            found[i] = HeadPredictor(
                features, heads.weight[place], heads.bias[place], float(losses[place])
            )
    return [found[i] for i in range(len(trains))]
