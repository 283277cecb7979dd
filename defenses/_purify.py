"""Purifying stored images in batches, with the energy-based model, the diffusion model, or both."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generative.ddpm import DDPM, Diffusion, NoisePredictor
from generative.ebm import EBM, FoldedEnergy
from generative.langevin import STEP_SIZE, TEMPERATURE, Energy, langevin
from generative.noise import row_noise
from generative.unet import UNetConfig
from harness.core.batches import AtMost, Batches
from harness.core.data import ImageSet
from harness.core.device import ALIKE_ROWS, Precision, on_device, pick_dtype
from harness.core.errors import DataError
from harness.core.pixels import to_bytes

# Images float32 (B, C, H, W) in units of [-1, 1], and standard normal tensors of their shape → the
# same images, purified.
Purifier = Callable[[Tensor, Iterator[Tensor]], Tensor]

# Images in flight where nobody says how many. Fewer than this on a GPU, and it waits for the
# processor to start its kernels; the numbers are for 32 px and take some gigabytes.
ON_CPU, ENERGY_ON_GPU, DIFFUSION_ON_GPU = AtMost(128), 2048, 1024


def in_flight(batch_size: int | None, shape: tuple[int, ...], *models: EBM | DDPM) -> int | AtMost:
    """Return how many images go through networks at once: ``batch_size``, or what suits a device.

    Args:
        batch_size: As asked for, and kept; None leaves it to the device, and to its memory.
        shape: (..., H, W) of the images. Where they are larger than 32 px, fewer of them fit a GPU.
        models: The networks that each batch goes through.
    """
    if batch_size is not None:
        return batch_size
    if device_of(models[0]).type != "cuda":
        return ON_CPU
    most = min(ENERGY_ON_GPU if isinstance(m, EBM) else DIFFUSION_ON_GPU for m in models)
    return AtMost(max(ALIKE_ROWS, min(most, most * 32 * 32 // (shape[-2] * shape[-1]))))


def _scaled(images: NDArray[np.uint8], device: torch.device | str) -> Tensor:
    return on_device(torch.tensor(images), device).float().div_(127.5).sub_(1)


def purify_images(
    images: NDArray[np.uint8],
    ids: NDArray[np.int64],
    purifier: Purifier,
    seed: int,
    *,
    batch_size: int | AtMost = ON_CPU,
    device: torch.device | str = "cpu",
) -> NDArray[np.uint8]:
    """Purify stored images; a row's noise depends on the seed and its id alone.

    Args:
        images: uint8 (N, C, H, W).
        ids: int64 (N,).
        purifier: What to do with them.
        seed: Of the noise.
        batch_size: Images in flight (see :class:`Batches`).
        device: Where the networks are.

    Returns:
        uint8 (N, C, H, W), rounded and clamped, never wrapped around.
    """
    purified = np.empty_like(images)
    _, channels, height, width = images.shape

    def purify(part: slice) -> None:
        rows = _filled_up(part)
        noise = row_noise(seed, ids[rows], (channels, height, width), device)
        x = purifier(_scaled(images[rows], device), noise)
        purified[rows] = to_bytes(x.add(1).div(2))

    Batches(len(images), batch_size).each(purify)
    return purified


def _filled_up(part: slice) -> NDArray[np.int64]:
    """Return the numbers of some rows, the last one repeated up to :data:`ALIKE_ROWS`."""
    rows = np.arange(part.start, part.stop)
    return np.pad(rows, (0, -len(rows) % ALIKE_ROWS), mode="edge")


@dataclass
class _Walk:
    """Rows on their way through a chain.

    Attributes:
        x: float32 (N, C, H, W) in [-1, 1].
        noise: From numbers of rows to their noise, from its beginning.
        drawn: How many tensors of it each row has used up.
    """

    x: Tensor
    noise: Callable[[NDArray[np.int64]], Iterator[Tensor]]
    drawn: int = 0

    def go_on(self, purifier: Purifier, batches: Batches) -> NDArray[np.uint8]:
        """Move all rows on, and return what is seen of them.

        The noise that was used is drawn again: it costs little beside the network, and to keep it
        between two snapshots would take sixteen times the memory of the images.
        """
        seen, drawn = np.empty(self.x.shape, np.uint8), 0

        def move(part: slice) -> None:
            nonlocal drawn
            rows = _filled_up(part)
            noise = _Counted(islice(self.noise(rows), self.drawn, None))
            x = purifier(self.x[on_device(torch.from_numpy(rows), self.x.device)], noise)
            seen[rows] = to_bytes(x.add(1).div(2))
            self.x[part] = x[: part.stop - part.start]  # last: now they cannot move here again
            drawn = noise.drawn

        batches.each(move)
        self.drawn += drawn
        return seen


@dataclass
class _Counted:
    """Noise that knows how many tensors of it were drawn."""

    noise: Iterator[Tensor]
    drawn: int = 0

    def __iter__(self) -> Iterator[Tensor]:
        return self

    def __next__(self) -> Tensor:
        self.drawn += 1
        return next(self.noise)


def snapshot_images(
    images: NDArray[np.uint8],
    ids: NDArray[np.int64],
    further: Callable[[int], Purifier],
    counts: Sequence[int],
    seed: int,
    *,
    batch_size: int | AtMost = ON_CPU,
    device: torch.device | str = "cpu",
) -> Iterator[NDArray[np.uint8]]:
    """Yield stored images after each count of steps: one walk, looked at on its way.

    What is yielded for a count is what :func:`purify_images` returns with ``further(count)``.
    Between two counts all rows are kept as floats, neither rounded nor clamped.

    Args:
        images: uint8 (N, C, H, W).
        ids: int64 (N,).
        further: From a number of steps to the purifier that takes them; to take some and then
            others must be to take them all.
        counts: Ascending, positive.
        seed: Of the noise.
        batch_size: Images in flight (see :class:`Batches`).
        device: Where the networks are.
    """
    _, channels, height, width = images.shape

    def noise(rows: NDArray[np.int64]) -> Iterator[Tensor]:
        return row_noise(seed, ids[rows], (channels, height, width), device)

    walk, batches = _Walk(_scaled(images, device), noise), Batches(len(images), batch_size)
    for before, count in zip([0, *counts], counts, strict=False):
        yield walk.go_on(further(count - before), batches)


def score(
    images: NDArray[np.uint8], ebm: EBM, *, batch_size: int | None = None
) -> NDArray[np.float32]:
    """Return the energy of each stored image, float32 (N,); lower is more natural.

    It is computed in float32: energies differ in digits that bf16 does not have. ``batch_size`` is
    that of :func:`in_flight`.
    """
    energy, device = FoldedEnergy(ebm), device_of(ebm)
    parts: list[Tensor] = []

    def judge(part: slice) -> None:
        parts.append(energy.energy(_scaled(images[part], device)))

    Batches(len(images), in_flight(batch_size, images.shape, ebm)).each(judge)
    scores: NDArray[np.float32] = torch.cat(parts).cpu().numpy()
    return scores


def device_of(model: EBM | DDPM) -> torch.device:
    """Return where a network is."""
    return next(model.parameters()).device


def energy_steps(
    ebm: EBM,
    steps: int,
    precision: Precision,
    temperature: float = TEMPERATURE,
    step_size: float = STEP_SIZE,
    steps_per_call: int = 1,
) -> Purifier:
    """Return the purifier that takes Langevin steps on an energy network."""
    energy = FoldedEnergy(ebm, pick_dtype(precision, device_of(ebm)))
    return langevin_steps(energy, steps, temperature, step_size, steps_per_call)


def langevin_steps(
    energy: Energy,
    steps: int,
    temperature: float = TEMPERATURE,
    step_size: float = STEP_SIZE,
    steps_per_call: int = 1,
) -> Purifier:
    """Return the purifier that takes Langevin steps on any energy."""

    def purify(x: Tensor, noise: Iterator[Tensor]) -> Tensor:
        return langevin(
            x, steps, energy, noise,
            temperature=temperature, step_size=step_size, steps_per_call=steps_per_call,
        )  # fmt: skip

    return purify


def diffusion_steps(ddpm: DDPM, diffusion: Diffusion, precision: Precision) -> Purifier:
    """Return the purifier that diffuses and denoises."""
    model = NoisePredictor(ddpm, pick_dtype(precision, device_of(ddpm)))

    def purify(x: Tensor, noise: Iterator[Tensor]) -> Tensor:
        return diffusion.purify(x, model, noise)

    return purify


def in_turn(stages: Sequence[Purifier], repeats: int = 1) -> Purifier:
    """Return the purifier that applies all stages in turn, ``repeats`` times over.

    Between two of them the images stay floats, neither rounded nor clamped.
    """

    def purify(x: Tensor, noise: Iterator[Tensor]) -> Tensor:
        for _ in range(repeats):
            for stage in stages:
                x = stage(x, noise)
        return x

    return purify


def check_at_least_one(**counts: int | None) -> None:
    """Raise for a count below 1; names it. None is left to the device."""
    for name, count in counts.items():
        if count is not None and count < 1:
            raise DataError(f"{name} must be at least 1; got {count}.")


def check_ddpm_takes(ddpm: DDPM, diffusion: Diffusion, train: ImageSet) -> None:
    """Raise unless a noise predictor, where it is there already, can take images and steps."""
    if not isinstance(ddpm, DDPM):  # the driver checks before any network is trained or read
        return
    config: UNetConfig = ddpm.config
    channels, height, width = train.image_shape
    side = config.sample_size
    if side is not None and (height, width) != (side, side):
        raise DataError(
            f"the noise predictor was trained on {side}x{side} images; these are {height}x{width}."
        )
    if channels != config.in_channels or height % config.divisor or width % config.divisor:
        raise DataError(
            f"the noise predictor takes {config.in_channels} channels and sides divisible by "
            f"{config.divisor}; images are {train.image_shape}."
        )
    if diffusion.steps > ddpm.horizon:
        raise DataError(
            f"the noise predictor was trained on a horizon of {ddpm.horizon} time steps; "
            f"{diffusion.steps} are too many."
        )
