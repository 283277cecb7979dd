"""Conversions between stored bytes and the floats that live inside a stage."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray


def to_float(images: NDArray[np.uint8], device: torch.device | str = "cpu") -> torch.Tensor:
    """Return float32 (N, C, H, W) in [0, 1] on a device; the bytes are copied."""
    return torch.tensor(images).to(device).float().div_(255)


def to_bytes(x01: torch.Tensor) -> NDArray[np.uint8]:
    """Return uint8 0..255 from floats in units of [0, 1]: clamped, and rounded half up.

    Truncating instead lowers 63 of the 256 grey levels by one on an unchanged image, and a value
    outside [0, 1] wraps around.

    >>> to_bytes(torch.tensor([-0.1, 0.0, 0.5, 0.999, 1.2])).tolist()
    [0, 0, 128, 255, 255]
    """
    scaled = x01.detach().float().mul(255).add(0.5).floor().clamp(0, 255)
    stored: NDArray[np.uint8] = scaled.to(torch.uint8).cpu().numpy()
    return stored


def add_within(
    base: NDArray[np.uint8], delta01: NDArray[np.float32], eps_255: int | None = None
) -> NDArray[np.uint8]:
    """Add a perturbation in units of [0, 1] to stored images; never leave ``eps_255`` levels.

    Args:
        base: uint8 (..., C, H, W).
        delta01: float32, broadcast against ``base``.
        eps_255: Largest change of a byte, or None for no bound.

    Returns:
        uint8 of the shape of ``base``, rounded half up and clipped to 0..255.
    """
    low, high = 0.0, 255.0
    wanted = np.floor(base.astype(np.float32) + 255 * delta01 + 0.5)
    if eps_255 is not None:
        wanted = np.clip(wanted, base.astype(np.float32) - eps_255, base + np.float32(eps_255))
    stored: NDArray[np.uint8] = np.clip(wanted, low, high).astype(np.uint8)
    return stored
