"""Neural tangent kernels of two infinitely wide networks, and what these predict after training.

They are the surrogates of NTGA (Yuan and Wu, "Neural Tangent Generalization Attacks", ICML 2021).
On a pair of images a recursion follows the covariance K of the signals and the tangent kernel T
from layer to layer; only K(x, x') and the variances K(x, x), K(x', x') are needed. Neither network
pools, so values at different positions never meet and the convolutional kernel is cheap.

What one image contributes (its *features*) is computed once, and a kernel is a function of the
features of two sets: the caller decides how many pairs are in memory at a time.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

Surrogate = Literal["cnn", "fnn"]
Features = tuple[Tensor, ...]

WEIGHT_VARIANCE = 1.76  # of every layer, as published
BIAS_VARIANCE = 0.18
FNN_LAYERS = 5  # dense layers, each followed by erf
CNN_DENSE = 3  # dense layers that end the CNN, with nothing between them
KERNEL_SIDE, STRIDE = 5, 2
MAX_COS = 1 - 1e-7  # the slope of the arc cosine is infinite at 1
RIDGE = 1e-4  # share of a kernel's mean diagonal that is added to its diagonal
NEAR = 1e-5  # relative gap of eigenvalues below which a slope stands for a difference quotient


class Kernel(Protocol):
    """The tangent kernel of an infinitely wide network, in two parts."""

    @property
    def values_per_pair(self) -> int:
        """Numbers that a pair of images needs in the widest layer."""
        ...

    def features(self, x: Tensor) -> Features:
        """Return what images, float (N, C, H, W) in [0, 1], contribute; dimension 1 is N."""
        ...

    def theta(self, a: Features, b: Features) -> Tensor:
        """Return the kernel (N, M) between the N images of ``a`` and the M images of ``b``."""
        ...


def tangent_kernel(surrogate: Surrogate, image_shape: tuple[int, int, int]) -> Kernel:
    """Return the kernel of a surrogate for images (C, H, W)."""
    return FnnKernel() if surrogate == "fnn" else CnnKernel(*image_shape)


def _dense(k: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    k = WEIGHT_VARIANCE * k + BIAS_VARIANCE
    return k, k + WEIGHT_VARIANCE * t


@dataclass(frozen=True, slots=True)
class FnnKernel:
    """Five times a dense layer and erf; the kernel is taken at the last erf."""

    @property
    def values_per_pair(self) -> int:
        """One: pixels are summed over at once."""
        return 1

    def features(self, x: Tensor) -> Features:
        """Return scaled pixels (1, N, D), and 1 + 2 K(x, x) before each erf (5, N)."""
        flat = x.flatten(1) / math.sqrt(x[0].numel())
        variance, spreads = flat.square().sum(1), []
        for _ in range(FNN_LAYERS):
            variance = WEIGHT_VARIANCE * variance + BIAS_VARIANCE
            spreads.append(1 + 2 * variance)
            variance = 2 / math.pi * torch.asin(2 * variance / spreads[-1])
        return flat[None], torch.stack(spreads)

    def theta(self, a: Features, b: Features) -> Tensor:
        """Return the kernel (N, M)."""
        k = a[0][0] @ b[0][0].T
        t = torch.zeros_like(k)
        for left, right in zip(a[1], b[1], strict=True):
            k, t = _dense(k, t)
            spread = left[:, None] * right
            t = t * (4 / math.pi) * torch.rsqrt(spread - 4 * k.square())
            k = 2 / math.pi * torch.asin(2 * k * torch.rsqrt(spread))
        return t


@dataclass(frozen=True, slots=True)
class CnnKernel:
    """Two 5x5 convolutions of stride 2, each followed by ReLU, and three dense layers.

    Attributes:
        channels, height, width: Of the images.
    """

    channels: int
    height: int
    width: int

    @property
    def _inner(self) -> tuple[int, int]:
        """Height and width of what the first convolution gives."""
        return _same(self.height)[0], _same(self.width)[0]

    @property
    def values_per_pair(self) -> int:
        """One per position of the first convolution: 256 for 32x32 images."""
        return math.prod(self._inner)

    def features(self, x: Tensor) -> Features:
        """Return what the two convolutions see of each image, by position P and Q.

        Three tensors: the directions (P, N, D) of its patches, in which the bias is one more
        entry; their norms (P, N), which are the standard deviations of the first layer's signals;
        and those of the second (Q, N).
        """
        (_, *rows), (_, *columns) = _same(self.height), _same(self.width)
        padded = F.pad(x, (*columns, *rows))
        patches = F.unfold(padded, KERNEL_SIDE, stride=STRIDE).permute(2, 0, 1)
        scale = math.sqrt(WEIGHT_VARIANCE / (self.channels * KERNEL_SIDE**2))
        seen = F.pad(patches * scale, (0, 1), value=math.sqrt(BIAS_VARIANCE))
        norms = torch.linalg.vector_norm(seen, dim=2)
        second = WEIGHT_VARIANCE * _box(norms.square() / 2, *self._inner) + BIAS_VARIANCE
        return seen / norms[..., None], norms, second.sqrt()

    def theta(self, a: Features, b: Features) -> Tensor:
        """Return the kernel (N, M)."""
        cosine = a[0] @ b[0].transpose(1, 2)
        share, sine = _ArcCosine.apply(cosine)
        size = a[1][:, :, None] * b[1][:, None]
        # After one convolution T equals K, so that T after ReLU is a part of K after ReLU.
        t = _box(size * share * cosine, *self._inner)
        k = WEIGHT_VARIANCE * (t + _box(size * sine, *self._inner)) + BIAS_VARIANCE
        t = k + WEIGHT_VARIANCE * t
        size = a[2][:, :, None] * b[2][:, None]
        share, sine = _ArcCosine.apply(k / size)
        k, t = (size * sine + share * k).mean(0), (share * t).mean(0)
        for _ in range(CNN_DENSE):
            k, t = _dense(k, t)
        return t


def _same(side: int) -> tuple[int, int, int]:
    """Return the side after a convolution, and the padding before and after (SAME)."""
    out = math.ceil(side / STRIDE)
    total = max((out - 1) * STRIDE + KERNEL_SIDE - side, 0)
    return out, total // 2, total - total // 2


def _averages(side: int, like: Tensor) -> Tensor:
    """Return the matrix (out, side) that averages along one axis what a convolution sees."""
    out, before, _ = _same(side)
    positions = torch.arange(side, device=like.device) + before
    offset = positions - STRIDE * torch.arange(out, device=like.device)[:, None]
    return ((offset >= 0) & (offset < KERNEL_SIDE)).to(like) / KERNEL_SIDE


def _box(values: Tensor, height: int, width: int) -> Tensor:
    """Average (height * width, ...) over 5x5 positions, stride 2, zeros outside."""
    tail = values.shape[1:]
    rows = _averages(height, values) @ values.reshape(height, -1)
    both = _averages(width, values) @ rows.reshape(-1, width, tail.numel())
    return both.reshape(-1, *tail)


class _ArcCosine(torch.autograd.Function):
    """For a cosine c with angle a: (pi - a) / 2 pi and sin(a) / 2 pi.

    By hand because it is where the time goes: it keeps two tensors instead of six.
    """

    @staticmethod
    def forward(ctx: Any, cosine: Tensor) -> tuple[Tensor, Tensor]:
        c = cosine.clamp(-MAX_COS, MAX_COS)
        share = torch.acos(c).mul_(-0.5 / math.pi).add_(0.5)
        sine = c.square().neg_().add_(1).sqrt_().mul_(0.5 / math.pi)
        ctx.save_for_backward(c, sine)
        return share, sine

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        by_share, by_sine = grads
        c, sine = ctx.saved_tensors
        slope: Tensor = torch.addcmul(by_share, c, by_sine, value=-1)
        return slope.div_(sine).mul_(0.25 / math.pi**2)


# Training by gradient flow


def trained_weights(kernel: Tensor, targets: Tensor, time: float) -> Tensor:
    """Return the weights by which a trained infinite network sums kernel values.

    After gradient flow for a time t on half the mean squared error over all N C outputs, started at
    output 0 with rate 1, the mean prediction on V is Theta(V, X) A with
    A = K^-1 (I - exp(-K t / (N C))) Y: equation 4 of the paper, normalised as in its code.

    Args:
        kernel: Theta(X, X), symmetric, float64 (N, N); ``RIDGE`` of its mean diagonal is added.
        targets: Y, one-hot, float64 (N, C).
        time: t, not negative; ``math.inf`` gives kernel regression.

    Returns:
        A, float64 (N, C), differentiable by ``kernel``.
    """
    ridge = RIDGE * kernel.diagonal().mean()
    regular = kernel + ridge * torch.eye(len(kernel), dtype=kernel.dtype, device=kernel.device)
    weights: Tensor = _Learned.apply(regular, targets, time / targets.numel())
    return weights


class _Learned(torch.autograd.Function):
    """phi(K) Y with phi(l) = (1 - exp(-l tau)) / l, for a symmetric positive K.

    The derivative of a matrix function in its eigenbasis is a matrix of difference quotients
    (Daleckii and Krein): no division by the gap of near eigenvalues, as in the derivative of eigh.
    """

    @staticmethod
    def forward(ctx: Any, kernel: Tensor, targets: Tensor, tau: float) -> Tensor:
        values, vectors = torch.linalg.eigh(kernel)
        phi = -torch.expm1(-values * tau) / values
        inner = vectors.T @ targets
        ctx.save_for_backward(values, vectors, phi, inner)
        ctx.tau = tau
        weights: Tensor = vectors @ (phi[:, None] * inner)
        return weights

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        values, vectors, phi, inner = ctx.saved_tensors
        gap = values[:, None] - values
        middle = (values[:, None] + values) / 2
        near = gap.abs() < NEAR * (middle + 1 / ctx.tau if ctx.tau else middle)
        quotient = (phi[:, None] - phi) / gap.masked_fill(near, 1)
        quotient = torch.where(near, _slope(middle, ctx.tau), quotient)
        core = quotient * ((vectors.T @ grads[0]) @ inner.T)
        full = vectors @ core @ vectors.T
        return (full + full.T) / 2, None, None


def _slope(values: Tensor, tau: float) -> Tensor:
    """Return the derivative of phi."""
    decay = torch.exp(-values * tau)
    tail = decay * tau if math.isfinite(tau) else torch.zeros_like(decay)
    return (tail + torch.expm1(-values * tau) / values) / values
