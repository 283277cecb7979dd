"""How far apart two sets of images are, as a network sees them: Fréchet distances.

Each set's features are taken for a normal distribution; the distance of the two is
``|m1 - m2|² + tr(S1 + S2 - 2 sqrt(S1 S2))`` (FID, arXiv 1706.08500, equation 6). It is biased
upwards for few images: compare sets of the same size only.

Features can be those of a trained classifier (:meth:`harness.training.Predictor.features`), or of a
network of fixed random weights, for which there is nothing to download or train: it sees
noise, blur and colour casts, and knows nothing of what is in an image.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from harness.core.errors import DataError, UsageError
from harness.core.seeds import torch_generator

# uint8 images (N, C, H, W) → float32 features (N, D)
Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
_INCEPTION = "weights-inception-2015-12-05-6726825d.pth"


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Return the Fréchet distance of two sets of features, (N, D) and (M, D); 0 for the same.

    Raises:
        DataError: If a set has fewer than two rows, other features, or a value is not finite.
    """
    for rows in (a, b):
        if rows.ndim != 2 or len(rows) < 2 or rows.shape[1] != b.shape[1]:
            raise DataError(f"features must be (N, D), N at least 2; got {a.shape}, {b.shape}.")
        if not np.isfinite(rows).all():
            raise DataError("some features are not finite.")
    a, b = a.astype(np.float64), b.astype(np.float64)
    apart = a.mean(0) - b.mean(0)
    first, second = (np.atleast_2d(np.cov(rows, rowvar=False)) for rows in (a, b))
    # tr sqrt(S1 S2) is that of the symmetric sqrt(S1) S2 sqrt(S1). Its eigenvalues are real, also
    # where fewer images than features make S1 and S2 singular and a general matrix root fails.
    root = _root(first)
    cross = np.sqrt(np.linalg.eigvalsh(root @ second @ root).clip(0)).sum()
    return float(max(0.0, apart @ apart + np.trace(first) + np.trace(second) - 2 * cross))


def _root(matrix: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the square root of a symmetric matrix without negative eigenvalues."""
    values, vectors = np.linalg.eigh(matrix)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)


class RandomFeatures:
    """Features of a convolutional network that was never trained: the same for everyone.

    Per layer (3x3 convolution, ReLU, then 2x2 average pooling) the mean and the standard deviation
    of each channel over the image: 2 x sum of the widths.

    Args:
        channels: Of the images.
        seed: Of the weights.
        widths: Of the layers.
        device: Where to compute.
    """

    def __init__(
        self,
        channels: int = 3,
        seed: int = 0,
        widths: Sequence[int] = (8, 16, 32),
        device: torch.device | str = "cpu",
    ) -> None:
        rng = torch_generator(seed, "random features")
        self.device = torch.device(device)
        self._kernels = []
        for inputs, outputs in zip((channels, *widths), widths, strict=False):
            kernel = torch.randn(outputs, inputs, 3, 3, generator=rng) / (4.5 * inputs) ** 0.5
            self._kernels.append(kernel.to(self.device, memory_format=torch.channels_last))

    @torch.no_grad()
    def __call__(self, images: NDArray[np.uint8], batch_size: int = 256) -> NDArray[np.float32]:
        """Return features, float32 (N, D), of uint8 images (N, C, H, W), sides 8 or more."""
        parts = []
        for start in range(0, len(images), batch_size):
            x = torch.tensor(images[start : start + batch_size]).to(self.device).float()
            parts.append(self._features(x.div_(127.5).sub_(1)))
        found: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
        return found

    def _features(self, x: Tensor) -> Tensor:
        x, found = x.contiguous(memory_format=torch.channels_last), []
        for kernel in self._kernels:
            x = F.relu(F.conv2d(x, kernel, padding=1))
            found += [x.mean((2, 3)), x.std((2, 3))]
            x = F.avg_pool2d(x, 2)
        return torch.cat(found, 1)


def feature_distance(
    a: NDArray[np.uint8], b: NDArray[np.uint8], features: Features | None = None
) -> float:
    """Return the Fréchet distance of two sets of stored images.

    Args:
        a: uint8 (N, C, H, W).
        b: uint8 (M, C, H, W).
        features: Of a classifier, or None for :class:`RandomFeatures`.
    """
    features = features or RandomFeatures(a.shape[1])
    return frechet_distance(features(a), features(b))


def inception_distance(
    a: NDArray[np.uint8], b: NDArray[np.uint8], device: torch.device | str = "cpu"
) -> float:
    """Return the FID of two sets of images, uint8 (N, 3, H, W) and (M, 3, H, W).

    Raises:
        UsageError: See :func:`inception_weights`.
    """
    inception_weights()
    metric = importlib.import_module("torchmetrics.image.fid").FrechetInceptionDistance().to(device)
    for images, real in ((a, True), (b, False)):
        for start in range(0, len(images), 64):
            metric.update(torch.tensor(images[start : start + 64]).to(device), real=real)
    return float(metric.compute())


def inception_weights() -> Path:
    """Return where Inception's weights are; nothing is downloaded.

    Raises:
        UsageError: If a package or the weights are missing; says which, and where they belong.
    """
    try:
        importlib.import_module("torch_fidelity")
        importlib.import_module("torchmetrics.image.fid")
    except ImportError:
        raise UsageError(
            "the FID needs torchmetrics and torch-fidelity: pip install 'torchmetrics[image]'. "
            "feature_distance needs nothing."
        ) from None
    weights = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION
    if not weights.is_file():
        raise UsageError(f"the FID needs Inception's weights as {str(weights)!r}.")
    return weights
