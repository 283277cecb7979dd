"""Noise that is drawn anew each time an image is trained on."""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from harness.core.seeds import subseed, torch_generator

Noise = Literal["bernoulli", "gaussian", "uniform"]


def add_noise(x: Tensor, kind: Noise, eps: float, rng: np.random.Generator) -> Tensor:
    """Return a batch plus independent noise on every value; not clamped, as in the published code.

    Values leave [0, 1] by what the noise adds: to clamp them would lessen it at black and white.
    Source: FRIENDS (arXiv 2208.10224), algorithm 1, and its published code.

    Args:
        x: float (B, C, H, W).
        kind: ``bernoulli`` is plus or minus ``eps`` with equal probability, ``gaussian`` has the
            standard deviation ``eps``, and ``uniform`` lies in [-eps, eps].
        eps: In units of [0, 1].
        rng: One number is drawn from it; the noise is made on the device of ``x``.
    """
    source = torch_generator(subseed(rng), "noise", device=x.device)
    noise = torch.empty_like(x)
    if kind == "gaussian":
        noise.normal_(0, eps, generator=source)
    elif kind == "uniform":
        noise.uniform_(-eps, eps, generator=source)
    else:
        noise.bernoulli_(0.5, generator=source).mul_(2 * eps).sub_(eps)
    return noise.add_(x)
