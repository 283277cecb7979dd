"""Independent random streams, one per purpose, all derived from the seeds of a spec."""

from __future__ import annotations

import hashlib

import numpy as np
import torch

Purpose = str | int


def _words(seed: int, purpose: tuple[Purpose, ...]) -> list[int]:
    text = "\x1f".join([str(seed), *(f"{type(p).__name__}:{p}" for p in purpose)])
    digest = hashlib.sha256(text.encode()).digest()
    return [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 32, 4)]


def stream(seed: int, *purpose: Purpose) -> np.random.Generator:
    """Return the generator of one purpose: a new draw in one purpose never shifts another.

    Args:
        seed: Non-negative integer from the spec.
        purpose: What the numbers are for, for example ``"attack", "trigger"``.

    >>> bool(stream(0, "attack").random() == stream(0, "attack").random())
    True
    >>> bool(stream(0, "attack").random() == stream(0, "train").random())
    False
    """
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(_words(seed, purpose))))


def subseed(rng: np.random.Generator) -> int:
    """Draw a 63-bit seed, from which further streams can be derived by purpose."""
    return int(rng.integers(0, 2**63 - 1))


def torch_generator(
    seed: int, *purpose: Purpose, device: torch.device | str = "cpu"
) -> torch.Generator:
    """Return the torch generator of one purpose on a device (see :func:`stream`)."""
    low, high = _words(seed, purpose)[:2]
    return torch.Generator(device=device).manual_seed((high << 31) ^ low)
