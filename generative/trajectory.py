"""What purification does to clean and to poisoned images, step by step.

The same images, clean and poisoned, go through the same purifier with the same noise, and are
looked at after some numbers of steps: how far each has moved, and how natural it is. Between the
first steps, which take the poison away, and the last, which take the image with it, lies the number
of steps to choose (PureGen, arXiv 2405.18627, figures 1 and 3).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from generative.ddpm import Diffusion, NoiseModel
from generative.langevin import STEP_SIZE, TEMPERATURE, Energy, langevin
from generative.noise import row_noise
from harness.core.errors import DataError
from harness.core.pixels import to_bytes
from harness.core.seeds import stream

Noise = Callable[[], Iterator[Tensor]]
# Images float32 (B, C, H, W) in units of [-1, 1], step counts (ascending), and what starts their
# noise from its beginning → the images after each of these counts, not rounded, not clamped.
Chain = Callable[[Tensor, Sequence[int], Noise], Iterator[Tensor]]
Curve = NDArray[np.float32]
PICTURES = 8  # poisoned images kept as they look after each count


class Scorer(Protocol):
    """Anything that knows how natural an image is."""

    def energy(self, x: Tensor) -> Tensor:
        """Return energies, float32 (B,), of images (B, C, H, W) in [-1, 1]."""
        ...


def langevin_chain(
    energy: Energy, *, temperature: float = TEMPERATURE, step_size: float = STEP_SIZE
) -> Chain:
    """Return the chain of Langevin steps on an energy: one walk, looked at on its way."""

    def walk(x: Tensor, steps: Sequence[int], noise: Noise) -> Iterator[Tensor]:
        source, done = noise(), 0
        for count in steps:
            x = langevin(
                x, count - done, energy, source, temperature=temperature, step_size=step_size
            )
            done = count
            yield x

    return walk


def diffusion_chain(model: NoiseModel, diffusion: Diffusion | None = None) -> Chain:
    """Return the chain of a diffusion model: one way there and back per count of time steps.

    There is no walk to look at on its way: images that shall come back after 75 steps are never
    diffused to 125. So each count costs its own network calls.

    Args:
        model: Network.
        diffusion: Sampler, start and network calls; its ``steps`` play no part. None is the
            published way.
    """
    way = diffusion or Diffusion()

    def runs(x: Tensor, steps: Sequence[int], noise: Noise) -> Iterator[Tensor]:
        for count in steps:
            how = replace(way, steps=count) if count else None
            yield how.purify(x, model, noise()) if how else x

    return runs


@dataclass(frozen=True, eq=False)
class Trajectory:
    """Distances and energies of N images at S step counts; Psi is the purifier.

    Distances are L2 over all pixels of an image in units of [0, 1]. Images are looked at as they
    would be stored but for the rounding: clamped.

    Attributes:
        steps: The counts, ascending; the first is 0, the images as they come.
        clean_moved: float32 (S, N), from a clean image x to Psi(x).
        clean_to_poison: float32 (S, N), from a clean image to Psi of its poisoned one.
        poison_moved: float32 (S, N), from a poisoned image x to Psi(x).
        energy_clean: float32 (S, N), energy of Psi(clean), or None without an energy network.
        energy_poison: float32 (S, N), of Psi(poisoned), likewise.
        energy_noisy: float32 (N,), of the clean images with white noise, as large in L2 as their
            poison, likewise.
        pictures: uint8 (S, k, C, H, W), the first k poisoned images, purified.
    """

    steps: tuple[int, ...]
    clean_moved: Curve
    clean_to_poison: Curve
    poison_moved: Curve
    energy_clean: Curve | None = None
    energy_poison: Curve | None = None
    energy_noisy: NDArray[np.float32] | None = None
    pictures: NDArray[np.uint8] | None = None

    @property
    def outmoved(self) -> float | None:
        """Step from which on poisoned images move further than clean ones; None for never.

        Both curves begin at 0: it is 0.0 where the poisoned ones are ahead from the first snapshot.
        """
        return crossing(self.steps, self.poison_moved, self.clean_moved)

    @property
    def freed(self) -> float | None:
        """Step from which on a purified poison is nearer to the clean image than to the poison."""
        return crossing(self.steps, self.poison_moved, self.clean_to_poison)

    def told_apart(self, index: int) -> float | None:
        """Return how well the energy tells poisoned from clean images, the poisons purified.

        Args:
            index: Of the step count; 0 is before purification.

        Returns:
            Probability that a poison has the higher energy (AUC): 0.5 is not at all; None without
            energies.
        """
        if self.energy_clean is None or self.energy_poison is None:
            return None
        clean, poison = np.sort(self.energy_clean[0]), self.energy_poison[index]
        below = np.searchsorted(clean, poison, "left") + np.searchsorted(clean, poison, "right")
        return float(below.mean() / (2 * len(clean)))

    def ordered(self, index: int) -> bool | None:
        """Whether mean energies order clean < purified poisoned < poisoned; None without energies.

        Args:
            index: Of the step count.
        """
        if self.energy_clean is None or self.energy_poison is None:
            return None
        clean, poison = self.energy_clean[0].mean(), self.energy_poison[0].mean()
        return bool(clean < self.energy_poison[index].mean() < poison)

    @property
    def nearest(self) -> int:
        """Step count at which purified poisons are nearest to their clean images."""
        return self.steps[int(self.clean_to_poison.mean(1).argmin())]


def to_arrays(found: Trajectory) -> dict[str, NDArray[Any]]:
    """Return all that was measured, by the names of :class:`Trajectory`."""
    values = {field.name: getattr(found, field.name) for field in fields(found)}
    return {name: np.asarray(value) for name, value in values.items() if value is not None}


def from_arrays(arrays: Mapping[str, NDArray[Any]]) -> Trajectory:
    """Read back what :func:`to_arrays` returned.

    Raises:
        DataError: If these are other arrays.
    """
    try:
        rest = {name: values for name, values in arrays.items() if name != "steps"}
        return Trajectory(tuple(int(step) for step in arrays["steps"]), **rest)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"these are not the arrays of a trajectory: {error}.") from error


def crossing(steps: Sequence[int], upper: Curve, lower: Curve) -> float | None:
    """Return the step from which on the mean of ``upper`` stays above that of ``lower``.

    Args:
        steps: Ascending, S of them.
        upper: (S, N).
        lower: (S, N).

    Returns:
        A step, linear between two snapshots; the first one's if it is above from there on; None if
        it is not above at the last.

    >>> upper, lower = np.float32([[0], [2], [6]]), np.float32([[1], [3], [5]])
    >>> crossing([0, 10, 20], upper, lower)
    15.0
    """
    ahead = (upper.astype(np.float64) - lower).mean(1)
    behind = np.flatnonzero(ahead <= 0)
    if not len(behind):
        return float(steps[0])
    last = int(behind[-1])
    if last == len(steps) - 1:
        return None
    low, high = -ahead[last], ahead[last + 1]
    return float(steps[last] + (steps[last + 1] - steps[last]) * low / (low + high))


def trace(
    clean: NDArray[np.uint8],
    poisoned: NDArray[np.uint8],
    ids: NDArray[np.int64],
    chain: Chain,
    steps: Sequence[int],
    seed: int,
    *,
    scorer: Scorer | None = None,
    batch_size: int = 128,
    device: torch.device | str = "cpu",
) -> Trajectory:
    """Purify clean and poisoned images side by side and measure them at each count of steps.

    The rows' noise is that of the defenses (:func:`generative.noise.row_noise`), so what is
    measured after K steps is what a defense with K steps returns.

    Args:
        clean: uint8 (N, C, H, W), at least 2.
        poisoned: The same images, poisoned.
        ids: int64 (N,), what a row's noise depends on, besides the seed.
        chain: The purifier.
        steps: Counts of steps, positive; 0 is added.
        seed: Of the noise.
        scorer: Gives the energies; None leaves them out.
        batch_size: Images in flight, clean and poisoned ones together.
        device: Where the networks are.

    Raises:
        DataError: If the two sets differ in shape, have fewer than two images or no difference, or
            a count is not positive.
    """
    counts = _checked(clean, poisoned, steps)
    _, channels, height, width = clean.shape
    parts, pictures, half = [], [], max(1, batch_size // 2)
    for start in range(0, len(clean), half):
        rows = slice(start, start + half)
        both = np.concatenate([clean[rows], poisoned[rows]])
        twice = np.concatenate([ids[rows], ids[rows]])
        x = torch.from_numpy(both).to(device).float().div_(127.5).sub_(1)

        def noise(twice: NDArray[np.int64] = twice) -> Iterator[Tensor]:
            return row_noise(seed, twice, (channels, height, width), device)

        seen = []
        for state in chain(x, counts, noise):
            seen.append(_measure(x, state, scorer))
            if start == 0:
                first = state.chunk(2)[1][:PICTURES]
                pictures.append(to_bytes(first.add(1).div(2)))
        parts.append(torch.stack(seen).cpu().numpy())
    found = np.concatenate(parts, axis=2)
    curves = (found[:, i] for i in range(5 if scorer else 3))
    measured = replace(Trajectory(tuple(counts), *curves), pictures=np.stack(pictures))
    if scorer is None:
        return measured
    noisy = as_noisy(clean, poisoned, stream(seed, "noisy"))
    energies = [
        scorer.energy(torch.from_numpy(noisy[i : i + half]).to(device).float().div_(127.5).sub_(1))
        for i in range(0, len(noisy), half)
    ]
    return replace(measured, energy_noisy=torch.cat(energies).cpu().numpy())


def as_noisy(
    clean: NDArray[np.uint8], poisoned: NDArray[np.uint8], rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return clean images with white noise, for each as large in L2 as what its poison adds.

    Clamping and rounding take a little of it.

    Args:
        clean: uint8 (N, C, H, W).
        poisoned: The same images, poisoned.
        rng: Of the noise.
    """
    noise = rng.standard_normal(clean.shape, dtype=np.float32)
    added = poisoned.astype(np.float32) - clean
    size, drawn = (np.sqrt(np.square(a).sum((1, 2, 3), keepdims=True)) for a in (added, noise))
    levels: NDArray[np.float32] = np.floor(clean + noise * (size / drawn) + 0.5)
    return levels.clip(0, 255).astype(np.uint8)


def _checked(
    clean: NDArray[np.uint8], poisoned: NDArray[np.uint8], steps: Sequence[int]
) -> list[int]:
    """Return the step counts, 0 first, or raise."""
    if clean.shape != poisoned.shape:
        raise DataError(f"clean images are {clean.shape}, poisoned ones {poisoned.shape}.")
    if len(clean) < 2:
        raise DataError(f"a trajectory needs at least 2 images; got {len(clean)}.")
    if np.array_equal(clean, poisoned):
        raise DataError("the poisoned images are the clean ones.")
    if not steps or min(steps) < 1:
        raise DataError(f"step counts must be positive; got {list(steps)}.")
    return [0, *sorted(set(steps))]


def _measure(start: Tensor, state: Tensor, scorer: Scorer | None) -> Tensor:
    """Return the distances, and the energies, (3 or 5, N) of 2 N rows: clean ones first."""
    x = state.clamp(-1, 1)
    clean, poisoned = start.chunk(2)
    purified, freed = x.chunk(2)
    pairs = ((clean, purified), (clean, freed), (poisoned, freed))
    found = [(a - b).flatten(1).norm(dim=1) / 2 for a, b in pairs]  # from [-1, 1] to [0, 1]
    if scorer is not None:
        found += scorer.energy(x).chunk(2)
    return torch.stack(found)
