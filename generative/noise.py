"""Standard normal noise with one stream per image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.core.seeds import torch_generator

STEPS_PER_DRAW = 16  # values per call, not values per stream: it changes no number


def row_noise(
    seed: int,
    ids: NDArray[np.int64],
    image_shape: tuple[int, int, int],
    device: torch.device | str = "cpu",
) -> Iterator[Tensor]:
    """Yield float32 (len(ids), C, H, W), forever; a row's numbers depend on seed and id alone.

    So the noise of an image is the same in any batch, on any worker, and alone. What was yielded
    is overwritten after ``STEPS_PER_DRAW`` further steps.

    Args:
        seed: Seed of the purification, non-negative.
        ids: int64 (B,).
        image_shape: (C, H, W).
        device: Where the numbers are made; CPU and GPU have different streams.
    """
    fill = _fill_on_cpu if torch.device(device).type == "cpu" else _fill_on_device
    block = torch.empty((len(ids), STEPS_PER_DRAW, *image_shape), device=device)
    for _ in fill(block, seed, ids):
        yield from block.unbind(1)


def _fill_on_cpu(block: Tensor, seed: int, ids: NDArray[np.int64]) -> Iterator[None]:
    # numpy's SFC64 with its ziggurat is twice as fast here as torch's normal_.
    rows = block.numpy()
    sources = [np.random.Generator(np.random.SFC64([seed, int(i)])) for i in ids]
    while True:
        for row, source in zip(rows, sources, strict=True):
            source.standard_normal(out=row, dtype=np.float32)
        yield


def _fill_on_device(block: Tensor, seed: int, ids: NDArray[np.int64]) -> Iterator[None]:
    sources = [torch_generator(seed, "row", int(i), device=block.device) for i in ids]
    while True:
        for row, source in zip(block, sources, strict=True):
            row.normal_(generator=source)
        yield
