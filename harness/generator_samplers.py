"""May a network be asked less often, or in bf16? Faster samplers held against the published one.

A sampler of fewer network calls, or without noise of its own, is another purifier until it is shown
to do the same: to move clean images as far, to make them as natural, and to leave as little of a
small pattern. What it does to victims, a study tells (``speed_ups_cpu`` and ``precision_cpu`` in
``sweeps/``).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from defenses._purify import (
    Purifier,
    check_ddpm_takes,
    diffusion_steps,
    energy_steps,
    purify_images,
    score,
)
from generative.ddpm import DDPM, SAMPLERS, Diffusion, SamplerName
from generative.ebm import EBM, check_energy_takes
from generative.langevin import TEMPERATURE
from harness.core.data import ImageSet
from harness.core.device import Precision
from harness.core.errors import UsageError
from harness.core.seeds import stream, subseed
from harness.generator_tools import first_images, images_of, load_generator

PATTERN = 8 / 255
Values = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class Difference:
    """One measure of a sampler, against that of the published one on the same images.

    Attributes:
        reference, mean: Of the published sampler and of this one, over the images.
        low, high: 95 % interval of mean minus reference: of the paired t test over the images.
    """

    reference: float
    mean: float
    low: float
    high: float

    @property
    def same(self) -> bool:
        """Whether the images show no difference: whether the interval of it holds 0."""
        return self.low <= 0 <= self.high


@dataclass(frozen=True, slots=True)
class Compared:
    """What a sampler does, against the published one on the same images with the same start.

    Attributes:
        sampler: Its name: one of a diffusion model's, or ``2 steps per call`` of Langevin steps;
            of the published one in bf16 with that added.
        calls: Of the network.
        measures: ``l2`` (from clean images to purified ones, pixels in [0, 1]), ``pattern_left``
            (share of a random ±8/255 pattern), and with an energy network ``energy_shift``.
    """

    sampler: str
    calls: int
    measures: Mapping[str, Difference]

    @property
    def accepted(self) -> bool:
        """Whether no measure differs.

        One of 20 measures of a sampler that does the same differs by chance.
        """
        return all(m.same for m in self.measures.values())

    @property
    def most(self) -> float:
        """How far the ends of the intervals reach, as a share of the reference's measures."""
        return max(
            max(abs(m.low), abs(m.high)) / max(abs(m.reference), 1e-12)
            for m in self.measures.values()
        )

    @property
    def line(self) -> str:
        """The same for people."""
        told = ", ".join(
            f"{name} {m.mean:.4g} ({m.mean - m.reference:+.2g} [{m.low:+.2g}, {m.high:+.2g}]"
            f"{'' if m.same else ': differs'})"
            for name, m in self.measures.items()
        )
        word = "same" if self.accepted else f"DIFFERS, by {100 * self.most:.2g} % at most"
        return f"{self.sampler}, {self.calls} calls: {word}; {told}"


@dataclass(frozen=True, slots=True)
class _Way:
    """A sampler with a number of network calls, and the purifier that both make in a precision."""

    sampler: str
    calls: int
    purifier: Callable[[Precision], Purifier]


def compare_samplers(
    path: Path,
    dataset: str,
    *,
    steps: int | None = None,
    calls: Sequence[int] | None = None,
    temperature: float | None = None,
    bf16: bool = False,
    count: int = 256,
    energy: Path | None = None,
    seed: int = 0,
    device: str = "cpu",
) -> list[Compared]:
    """Purify the same images with each sampler, and hold them against the published one.

    That is all ancestral steps of a diffusion model, and single Langevin steps on an energy.

    Args:
        path: Noise predictor or energy network: folder or weights file.
        dataset: Name or YAML mapping, as in a study.
        steps: Time steps there and back, 75 where none are given; of Langevin dynamics 150.
        calls: Network calls of the faster samplers: 8, of Langevin dynamics half and a third of
            the steps where none are given.
        temperature: Of Langevin steps; None is the published one.
        bf16: Whether the published sampler runs in bf16 too, all others in float32; else all run in
            what suits the device.
        count: At most so many images.
        energy: Energy network that measures how natural purified images are; one that is compared
            itself measures them itself where none is given.
        seed: Of noise and pattern.
        device: ``cpu`` or ``cuda[:i]``.

    Returns:
        Each sampler with each number of calls; the first is the published one with other noise,
        which shows what the noise of the comparison is, and the second may be it in bf16.

    Raises:
        UsageError: If a generator is of another kind, cannot take the images or steps, or the calls
            do not cover the steps.
    """
    _, model = load_generator(path.expanduser(), device)
    judge = load_generator(energy.expanduser(), device)[1] if energy else None
    if judge is not None and not isinstance(judge, EBM):
        raise UsageError(f"{str(energy)!r} is no energy network.")
    data = first_images(images_of(dataset), count)
    if isinstance(model, EBM):
        ways = _langevin_ways(model, data, steps or 150, calls, temperature or TEMPERATURE)
        judge = judge or model
    elif isinstance(model, DDPM):
        if temperature is not None:
            raise UsageError("a temperature is for the Langevin steps of an energy network.")
        ways = _diffusion_ways(model, data, steps or 75, calls or (8,))
    else:
        raise UsageError(f"{str(path)!r} is neither a noise predictor nor an energy network.")
    signs = stream(seed, "pattern").integers(0, 2, data.images.shape) * 2 - 1
    patterned = _bytes(data.images + 255 * PATTERN * signs)
    moved = (patterned.astype(np.float64) - data.images) / 255

    def measured(way: _Way, noise_seed: int, precision: Precision) -> Values:
        purifier = way.purifier(precision)
        clean, marked = (
            purify_images(images, data.ids, purifier, noise_seed, device=device)
            for images in (data.images, patterned)
        )
        left = (marked.astype(np.float64) - clean) / 255
        axes = (1, 2, 3)
        found = {
            "l2": np.sqrt(np.square((clean.astype(np.float64) - data.images) / 255).sum(axes)),
            "pattern_left": (left * moved).sum(axes) / np.square(moved).sum(axes),
        }
        if judge is not None:
            found["energy_shift"] = score(clean, judge) - score(data.images, judge).astype(float)
        return found

    first, other = subseed(stream(seed, "defense")), subseed(stream(seed, "other noise"))
    published, *others = ways
    usual: Precision = "fp32" if bf16 else "auto"
    trials = [(published, other, usual), *((way, first, usual) for way in others)]
    if bf16:
        in_bf16 = replace(published, sampler=f"{published.sampler} in bf16")
        trials.insert(1, (in_bf16, first, "bf16"))
    reference = measured(published, first, usual)
    return [
        Compared(way.sampler, way.calls, _differences(reference, measured(way, noise, precision)))
        for way, noise, precision in trials
    ]


def _diffusion_ways(model: DDPM, data: ImageSet, steps: int, calls: Sequence[int]) -> list[_Way]:
    """Return all ancestral steps, then each sampler with each number of calls."""
    check_ddpm_takes(model, Diffusion(steps=steps), data)
    names: list[tuple[SamplerName, int | None]] = [("ancestral", None)]
    names += [(name, number) for number in calls for name in SAMPLERS]
    diffusions = [
        Diffusion(steps=steps, sampler=name, network_calls=number) for name, number in names
    ]  # all are checked before the first is run
    return [
        _Way(d.sampler, d.network_calls or steps, partial(diffusion_steps, model, d))
        for d in diffusions
    ]


def _langevin_ways(
    model: EBM, data: ImageSet, steps: int, calls: Sequence[int] | None, temperature: float
) -> list[_Way]:
    """Return single steps, then as many steps per call as each number of calls leaves."""
    check_energy_takes(model, data.image_shape)
    if calls is None:
        calls = [steps // each for each in (2, 3) if steps % each == 0]
    for number in calls:
        if number < 1 or steps % number:
            raise UsageError(f"network calls must divide the {steps} Langevin steps; got {number}.")
    return [
        _Way(
            f"{each} steps per call" if each > 1 else "single steps",
            steps // each,
            partial(energy_steps, model, steps, temperature=temperature, steps_per_call=each),
        )
        for each in (1, *(steps // number for number in calls))
    ]


def _bytes(values: NDArray[np.float64]) -> NDArray[np.uint8]:
    return np.floor(values + 0.5).clip(0, 255).astype(np.uint8)


def _differences(reference: Values, found: Values) -> dict[str, Difference]:
    differences = {}
    for name, before in reference.items():
        after = found[name]
        ends = _paired(before, after)
        differences[name] = Difference(float(before.mean()), float(after.mean()), *ends)
    return differences


def _paired(before: NDArray[np.float64], after: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of the mean of after - before, (N,) each, one value per image."""
    differences = after - before
    if np.ptp(differences) < 1e-12:  # no spread to judge by: the difference itself
        return float(differences.mean()), float(differences.mean())
    ends = stats.ttest_rel(after, before).confidence_interval(confidence_level=0.95)
    return float(ends.low), float(ends.high)
