"""Does a trained generator purify? Cheap numbers, before any classifier is trained."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from defenses._purify import (
    Purifier,
    check_ddpm_takes,
    diffusion_steps,
    energy_steps,
    purify_images,
)
from generative.ddpm import DDPM, Diffusion, NoiseModel, NoisePredictor, diffuse
from generative.diagnostics import check_purifier, energy_gap
from generative.ebm import EBM, FoldedEnergy, check_energy_takes
from generative.feature_distance import (
    Features,
    feature_distance,
    inception_distance,
    inception_weights,
)
from generative.langevin import STEP_SIZE
from generative.noise import row_noise
from harness.artifacts import LABEL
from harness.core.data import ImageSet
from harness.core.device import pick_device
from harness.core.errors import UsageError, nearest
from harness.core.files import file_digest
from harness.core.seeds import torch_generator
from harness.generator_tools import first_images, images_of, load_generator

NOISE_LEVELS = (0, 10, 25, 50, 75, 100, 150, 200, 249, 499, 749, 999)
_MORE_IS_BETTER = ("psnr", "psnr_gain", "energy_gap")


@dataclass(frozen=True, slots=True)
class Measured:
    """One number, and the bound that it was held against, if any."""

    name: str
    value: float
    bound: float | None = None

    @property
    def ok(self) -> bool:
        """Whether it keeps its bound; what is not finite keeps none."""
        if not np.isfinite(self.value):
            return False
        if self.bound is None:
            return True
        more = self.name in _MORE_IS_BETTER
        return self.value >= self.bound if more else self.value <= self.bound


@dataclass(frozen=True, slots=True)
class Verification:
    """What a look at a generator showed.

    Attributes:
        kind: Of generator.
        path: Where it lies.
        steps: Of purification, in all that is measured with one.
        images: How many images were purified.
        problems: What is wrong with its files; empty for nothing.
        measured: Numbers, those with a bound held against it.
    """

    kind: str
    path: Path
    steps: int
    images: int
    problems: tuple[str, ...]
    measured: tuple[Measured, ...]

    @property
    def ok(self) -> bool:
        """Whether nothing is wrong."""
        return not self.problems and all(m.ok for m in self.measured)

    @property
    def lines(self) -> list[str]:
        """The same for people."""
        lines = [f"{self.path} ({self.kind}), {self.images} images, {self.steps} steps"]
        lines += [f"  error: {problem}" for problem in self.problems]
        for m in self.measured:
            sign = ">=" if m.name in _MORE_IS_BETTER else "<="
            bound = "" if m.bound is None else f"  (wanted {sign} {m.bound:g})"
            lines.append(f"  {'ok   ' if m.ok else 'FAILS'} {m.name}: {m.value:.4g}{bound}")
        return lines


def verify_generator(
    path: Path,
    dataset: str,
    *,
    steps: int | None = None,
    count: int = 64,
    thresholds: Mapping[str, float] | None = None,
    digest: str | None = None,
    features: Features | None = None,
    fid: bool = False,
    seed: int = 0,
    device: str = "cpu",
) -> Verification:
    """Load a generator and measure what it does to images, before any classifier is trained.

    ======================  ===================================================================
    ``psnr``                of purified against clean images, dB
    ``psnr_gain``           how much better that is than the chain's noise alone (energy models)
    ``retention_fine``      share of a random ±8/255 pattern that survives; ``retention_coarse``
                            the same for one of 4x4-pixel blocks
    ``energy_gap``          how much higher noisy images lie, in temperatures (energy models)
    ``loss_t{t}``           mean squared error of the noise at time step t; ``loss`` their mean
                            (diffusion models)
    ``feature_distance``    Fréchet distance of purified and clean images
    ``fid``                 the same in Inception's features, where asked for
    ======================  ===================================================================

    Args:
        path: Folder or weights file.
        dataset: Name or YAML mapping; its first test images are purified, or training images where
            it has no others.
        steps: Of purification; None is 100 Langevin steps, or 75 time steps.
        count: Images.
        thresholds: Bounds by name: lower ones for psnr, psnr_gain and energy_gap, else upper ones.
        digest: The digest that it must have.
        features: For the feature distance; None is a network of fixed random weights.
        fid: Measure the FID too; needs torchmetrics and Inception's weights.
        seed: Of the noise.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.

    Raises:
        DataError: If it cannot be loaded, or cannot take such images.
        UsageError: If there is no such dataset, a threshold of another name, or no FID to be had.
    """
    if count < 2:
        raise UsageError(f"at least 2 images are measured; got {count}.")
    if fid:
        inception_weights()
    where = pick_device(device)
    path = path.expanduser()
    kind, model = load_generator(path, str(where))
    data = first_images(images_of(dataset), count)
    problems = _problems(path, digest)
    purifier, steps = _purifier(model, data, steps)
    found: dict[str, float] = {}
    if not problems:
        found = _diagnose(model, purifier, data, steps, features, fid, seed, where)
    limits = dict(thresholds or {})
    for name in limits:
        if found and name not in found:
            raise UsageError(
                f"no threshold for {name!r}.{nearest(name, found)} Allowed: {', '.join(found)}."
            )
    measured = tuple(Measured(name, value, limits.get(name)) for name, value in found.items())
    return Verification(kind, path, steps, len(data), problems, measured)


def _problems(path: Path, digest: str | None) -> tuple[str, ...]:
    """Return what is wrong with the files of a generator that could be loaded."""
    found = []
    given = file_digest(path)
    if digest is not None and given != digest:
        found.append(f"its digest is {given}, not {digest}.")
    label = path / LABEL
    if label.is_file():
        try:
            files = dict(json.loads(label.read_text())["files"])
        except (ValueError, KeyError, TypeError) as error:
            return (*found, f"{LABEL} cannot be read: {error!r}.")
        for name, expected in files.items():
            file = path / name
            if not file.is_file() or file_digest(file) != expected:
                found.append(f"{name} is not what was stored.")
    return tuple(found)


def _purifier(model: Any, images: ImageSet, steps: int | None) -> tuple[Purifier, int]:
    """Return the purifier that a kind of model makes, and its steps, after a look at the images.

    Raises:
        UsageError: If it is of a kind that is no purifier.
    """
    if isinstance(model, EBM):
        check_energy_takes(model, images.image_shape)
        return energy_steps(model, steps or 100, "auto"), steps or 100
    if isinstance(model, DDPM):
        diffusion = Diffusion(steps=steps or min(75, model.horizon))
        check_ddpm_takes(model, diffusion, images)
        return diffusion_steps(model, diffusion, "auto"), diffusion.steps
    raise UsageError(f"what a {type(model).__name__} does to images cannot be measured.")


def _diagnose(
    model: Any,
    purifier: Purifier,
    data: ImageSet,
    steps: int,
    features: Features | None,
    fid: bool,
    seed: int,
    device: torch.device,
) -> dict[str, float]:
    x = torch.tensor(data.images).to(device).float().div_(127.5).sub_(1)

    def purify(x: Tensor) -> Tensor:
        return purifier(x, row_noise(seed, data.ids, data.image_shape, device))

    check = check_purifier(purify, x, seed)
    purified = purify_images(data.images, data.ids, purifier, seed, device=device)
    found = {
        "psnr": check.psnr,
        "retention_fine": check.retention_fine,
        "retention_coarse": check.retention_coarse,
        "feature_distance": feature_distance(data.images, purified, features),
    }
    if fid:
        found["fid"] = inception_distance(data.images, purified, device)
    if isinstance(model, EBM):
        noise_alone = -10 * np.log10(steps * (STEP_SIZE / 2) ** 2)
        found["psnr_gain"] = check.psnr - float(noise_alone)
        found["energy_gap"] = energy_gap(FoldedEnergy(model), x, seed=seed)
    elif isinstance(model, DDPM):
        losses = noise_losses(NoisePredictor(model), x, seed)
        found |= {f"loss_t{t}": loss for t, loss in losses.items()}
        found["loss"] = float(np.mean(list(losses.values())))
    return found


def noise_losses(model: NoiseModel, x: Tensor, seed: int = 0) -> dict[int, float]:
    """Return the mean squared error of the predicted noise at some time steps.

    Args:
        model: Network.
        x: Clean images, float (B, C, H, W) in [-1, 1].
        seed: Of the noise.

    Returns:
        By time step below the horizon, its last one among them; 1 is predicting no noise at all.
    """
    z = torch.randn(x.shape, generator=torch_generator(seed, "loss")).to(x.device)
    levels = sorted({*(t for t in NOISE_LEVELS if t < model.horizon), model.horizon - 1})
    errors = torch.stack([(model.noise(diffuse(x, t, z), t) - z).square().mean() for t in levels])
    return dict(zip(levels, errors.tolist(), strict=True))
