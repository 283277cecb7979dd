"""What a trained generator does to poisons, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from defenses._purify import check_ddpm_takes, device_of
from generative.ddpm import DDPM, Diffusion, NoisePredictor
from generative.ebm import EBM, FoldedEnergy, check_energy_takes
from generative.langevin import TEMPERATURE
from generative.trajectory import Chain, Trajectory, diffusion_chain, langevin_chain, trace
from harness.artifacts import Store
from harness.core.data import ImageSet
from harness.core.device import pick_device, pick_dtype
from harness.core.errors import UsageError
from harness.core.files import file_digest
from harness.core.params import complete
from harness.core.protocols import ATTACKS
from harness.core.seeds import stream, subseed
from harness.core.yaml_text import read_yaml
from harness.generator_tools import images_of, load_generator
from harness.trajectory_files import Traced, write_trajectory
from harness.trajectory_poisons import Pair, rows_of_attack, rows_of_poisons, rows_with_pattern
from harness.workshop import Workshop

STEPS = (5, 10, 20, 35, 50, 75, 100, 125, 150, 200, 250, 300)


@dataclass(frozen=True, slots=True)
class Followed:
    """What was measured, and in which terms.

    Attributes:
        found: The curves.
        unit: What the steps are.
        usual: The published count of them.
    """

    found: Trajectory
    unit: str
    usual: int


def follow(
    model: Any,
    judge: Any,
    clean: ImageSet,
    poisoned: NDArray[np.uint8],
    *,
    steps: tuple[int, ...] | None,
    temperature: float | None,
    seed: int,
    device: torch.device,
) -> Followed:
    """Purify clean and poisoned images side by side.

    Args:
        model: Generator that purifies.
        judge: Network that measures how natural images are; one that is no energy network does not.
        clean: Images.
        poisoned: The same ones, poisoned.
        steps: Counts at which to look; None is :func:`usual_steps`.
        temperature: Of Langevin steps; None is that of the paper.
        seed: Of the noise; a study's ``purify`` seed gives its very images.
        device: Where the networks are.
    """
    scorer = FoldedEnergy(judge) if isinstance(judge, EBM) else None
    looks = steps or usual_steps(getattr(model, "horizon", None))
    chain, unit, usual = _chain(model, clean, max(looks), temperature)
    found = trace(
        clean.images, poisoned, clean.ids, chain, looks, subseed(stream(seed, "defense")),
        scorer=scorer, device=device,
    )  # fmt: skip
    return Followed(found, unit, usual)


def usual_steps(horizon: int | None) -> tuple[int, ...]:
    """Return where to look if nobody says: :data:`STEPS`, up to the horizon of a network."""
    return tuple(s for s in STEPS if horizon is None or s <= horizon)


def trajectory(
    path: Path,
    dataset: str,
    out: Path,
    *,
    attack: str | None = None,
    trigger: Path | None = None,
    poisons: Path | None = None,
    eps_255: int = 8,
    steps: tuple[int, ...] | None = None,
    temperature: float | None = None,
    count: int = 128,
    energy: Path | None = None,
    seed: int = 0,
    device: str = "auto",
    store: Store | None = None,
) -> Traced:
    """Purify clean and poisoned images side by side; write a table, arrays and figures.

    The poisons are those of one of ``attack``, ``trigger`` and ``poisons``; without any, test
    images get one random pattern of ±eps_255.

    Args:
        path: Generator: folder or weights file.
        dataset: Name or YAML mapping, as in a study.
        out: Folder to write.
        attack: An attack as in a study, YAML; made with ``seed`` in the store.
        trigger: ``.npy`` as published (see :func:`attacks.narcissus.read_trigger`), added to test
            images.
        poisons: A set of poisons, as ``import-poisons`` writes it, made of training rows.
        eps_255: Bound in grey levels of trigger and pattern.
        steps: Counts at which to look; None is :data:`STEPS`, up to the horizon of a network.
        temperature: Of the Langevin steps of an energy network; None is that of the paper.
        count: At most so many images.
        energy: Energy network that measures how natural images are; None is ``path``, if it is one.
        seed: Of noise, pattern and attack; a study's ``purify`` seed gives its very images.
        device: ``auto``, ``cpu`` or ``cuda[:i]``.
        store: For ``attack``; needed with it.

    Raises:
        UsageError: If more than one source of poisons is given, or one that does not fit.
    """
    path, where = path.expanduser(), pick_device(device)
    kind, model = load_generator(path, str(where))
    judge = model if energy is None else load_generator(energy, str(where))[1]
    given = [n for n, v in (("attack", attack), ("trigger", trigger), ("poisons", poisons)) if v]
    if len(given) > 1:
        raise UsageError(f"give one source of poisons; got {' and '.join(given)}.")
    data = images_of(dataset)
    pair: Pair
    if attack is not None:
        if store is None:
            raise UsageError("an attack is made in a store; give one.")
        spec = complete(ATTACKS, read_yaml(attack, "--attack"), "--attack")
        pair = rows_of_attack(data, spec, seed, count, Workshop(store, device))
    elif poisons is not None:
        pair = rows_of_poisons(data, poisons, count)
    else:
        pair = rows_with_pattern(data, trigger, eps_255, count, seed)
    clean, poisoned, what = pair
    if energy is not None and not isinstance(judge, EBM):
        raise UsageError(f"{str(energy)!r} is no energy network.")
    done = follow(
        model, judge, clean, poisoned, steps=steps, temperature=temperature, seed=seed, device=where
    )
    note = {
        "generator": {"kind": kind, "path": str(path), "digest": file_digest(path)},
        "energy": None if energy is None else {"path": str(energy), "digest": file_digest(energy)},
        "dataset": dataset,
        "poisons": what,
        "images": len(clean),
        "seed": seed,
        "temperature": used_temperature(type(model), temperature),
    }
    return write_trajectory(out.expanduser(), done.found, done.unit, done.usual, note)


def used_temperature(kind: type, temperature: float | None) -> float | None:
    """Return the temperature of a generator's steps; None where they have none."""
    return (temperature or TEMPERATURE) if issubclass(kind, EBM) else None


def check_temperature(kind: type, temperature: float | None) -> None:
    """Raise for a temperature that a kind of generator cannot have."""
    if temperature is None:
        return
    if not issubclass(kind, EBM):
        raise UsageError("temperature is for the Langevin steps of an energy network.")
    if not 0 < temperature < math.inf:
        raise UsageError(f"temperature must be a number above 0; got {temperature}.")


def _chain(
    model: Any, images: ImageSet, most: int, temperature: float | None
) -> tuple[Chain, str, int]:
    """Return the chain that a kind of model makes, what its steps are, and the published count."""
    check_temperature(type(model), temperature)
    if isinstance(model, EBM):
        check_energy_takes(model, images.image_shape)
        energy = FoldedEnergy(model, pick_dtype("auto", device_of(model)))
        chain = langevin_chain(energy, temperature=temperature or TEMPERATURE)
        return chain, "Langevin steps", 150
    if isinstance(model, DDPM):
        check_ddpm_takes(model, Diffusion(steps=most), images)
        dtype = pick_dtype("auto", device_of(model))
        return diffusion_chain(NoisePredictor(model, dtype)), "time steps", 75
    raise UsageError(f"what a {type(model).__name__} does to images cannot be measured.")
