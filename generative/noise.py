"""Standard normal noise with one stream per image."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.core.seeds import torch_generator

STEPS_PER_DRAW = 16  # on a CPU it changes no number: a stream goes on where it stopped
ROWS_PER_STREAM = 64  # on a GPU: ids 0..63 share a stream, and so on; it is part of the numbers


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
        device: Where the numbers are made; CPU and GPU have different streams, and a GPU draws
            :data:`ROWS_PER_STREAM` neighbours at once, of which it keeps those asked for.
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
    # A kernel per row would take as long as the network does: neighbours are made in one, whole,
    # of which each batch keeps its own rows. So a row's numbers still depend on its id alone.
    scratch = torch.empty((ROWS_PER_STREAM, *block.shape[1:]), device=block.device)
    numbers, of = np.unique(ids // ROWS_PER_STREAM, return_inverse=True)
    streams: list[tuple[torch.Generator, Tensor, Tensor]] = []
    for index, number in enumerate(numbers):
        mine = np.flatnonzero(of == index)
        source = torch_generator(seed, "rows", int(number), device=block.device)
        where = torch.from_numpy(mine).to(block.device)
        rows = torch.from_numpy(ids[mine] % ROWS_PER_STREAM).to(block.device)
        streams.append((source, where, rows))
    while True:
        for source, where, rows in streams:
            block[where] = scratch.normal_(generator=source)[rows]
        yield
