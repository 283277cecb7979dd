"""Smooth images of four classes, and a network of milliseconds per epoch that learns them.

The class shows faintly in a smooth field that differs from image to image, as a picture does in its
scene: a network that is offered an easier sign of the class takes that.
"""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F
from torch import from_numpy, nn

from harness.classifiers._base import ImageClassifier
from harness.core.data import ImageSet, PoisonedSet
from harness.core.recipe import Recipe
from harness.core.seeds import stream
from harness.training import Predictor, build_model, fit

CLASSES = 4
RECIPE = Recipe(epochs=10, lr=0.1, batch_size=32, crop_pad=1, flip=False, precision="fp32")


def smooth_images(rows: int, seed: int, contrast: float = 18, noise: float = 2) -> ImageSet:
    """Return images of 16 pixels a side; contrast of classes and noise are in grey levels."""
    rng = stream(seed, "smooth")
    labels = np.arange(rows, dtype=np.int64) % CLASSES
    scenes = rng.normal(0, 30, (rows, 3, 4, 4))
    classes = contrast * np.sign(stream(0, "classes").normal(size=(CLASSES, 3, 4, 4)))
    coarse = from_numpy(scenes + classes[labels]).float()
    fine = F.interpolate(coarse, (16, 16), mode="bilinear", align_corners=True).numpy()
    noisy = 128 + fine + rng.normal(0, noise, fine.shape)
    images = np.clip(np.floor(noisy + 0.5), 0, 255).astype(np.uint8)
    return ImageSet(images, labels, np.arange(rows) + 10_000 * seed, CLASSES)


def small_net(num_classes: int, image_shape: tuple[int, int, int]) -> nn.Module:
    """Return two convolutions and a map of 4 x 4 whose places the head can tell apart."""
    body = nn.Sequential(
        nn.Conv2d(image_shape[0], 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.MaxPool2d(2), nn.Conv2d(16, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU(),
        nn.AvgPool2d(2), nn.Flatten(),
    )  # fmt: skip
    side = image_shape[1] // 4
    return ImageClassifier(body, nn.Linear(16 * side * side, num_classes))


def victim(train: ImageSet, recipe: Recipe = RECIPE) -> Predictor:
    rng = stream(0, "train")
    model = build_model(small_net, train.num_classes, train.image_shape, rng)
    return fit(model, train, recipe, rng)


def accuracy(predict: Predictor, images: ImageSet) -> float:
    return float(np.mean(predict(images.images) == images.labels))


def success(predict: Predictor, poisoned: PoisonedSet) -> float:
    """Return the share of the first probe that gets the adversary's label."""
    probe = poisoned.probes[0]
    return float(np.mean(predict(probe.images.images) == probe.adv_labels))
