"""What a trained generator does to poisons, step by step: a table, arrays and figures."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from attacks.narcissus import read_trigger
from defenses._purify import check_ddpm_takes, check_energy_takes, device_of
from generative.ddpm import DDPM, Diffusion, NoisePredictor
from generative.ebm import EBM, FoldedEnergy
from generative.langevin import TEMPERATURE
from generative.trajectory import Chain, Trajectory, band, diffusion_chain, langevin_chain, trace
from harness.artifacts import Store
from harness.core.data import Dataset, ImageSet
from harness.core.device import pick_device, pick_dtype
from harness.core.errors import DataError, UsageError
from harness.core.files import file_digest, write_arrays, write_aside, write_text
from harness.core.params import complete
from harness.core.pixels import add_within
from harness.core.protocols import ATTACKS
from harness.core.seeds import stream, subseed
from harness.core.values import Json
from harness.core.yaml_text import read_yaml
from harness.generator_tools import first_images, images_of, load_generator
from harness.interop.poison_set import UNKNOWN, read_poison_set
from harness.poisons import changed_rows
from harness.report.figures import Drawing
from harness.report.trajectory_figure import draw, facts, write
from harness.sample_grid import sample_grid
from harness.workshop import Workshop

STEPS = (5, 10, 20, 35, 50, 75, 100, 125, 150, 200, 250, 300)


@dataclass(frozen=True, slots=True)
class Traced:
    """A trajectory, and what was written of it.

    Attributes:
        found: What was measured.
        unit: What its steps are.
        files: Table, arrays, settings and figures.
    """

    found: Trajectory
    unit: str
    files: tuple[Path, ...]

    @property
    def lines(self) -> list[str]:
        """The table and the crossings, for people."""
        found = self.found
        rows = [[f"{value:>{len(name)}.4g}" for name, value in row.items()] for row in _rows(found)]
        lines = ["  ".join(_rows(found)[0]), *("  ".join(row) for row in rows)]
        freed = "never" if found.freed is None else f"from step {found.freed:.0f} on"
        ahead = "never" if found.outmoved is None else f"from step {found.outmoved:.0f} on"
        return [
            *lines,
            f"poisoned images move further than clean ones: {ahead}",
            f"purified poisons are nearer to the clean images than to the poisons: {freed}",
            f"they are nearest to the clean images at step {found.nearest}",
            *self._order,
            *(f"written: {file}" for file in self.files),
        ]

    @property
    def _order(self) -> list[str]:
        """Whether the energies order clean < purified poisoned < poisoned, step by step."""
        steps, ordered = self.found.steps[1:], self.found.ordered
        kept = [str(step) for index, step in enumerate(steps, 1) if ordered(index)]
        if self.found.energy_clean is None:
            return []
        return [f"energies clean < purified poisoned < poisoned at: {', '.join(kept) or 'no step'}"]


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
    clean, poisoned, what = _poisons(
        images_of(dataset), attack, trigger, poisons, eps_255, count, seed, store, device
    )
    if energy is not None and not isinstance(judge, EBM):
        raise UsageError(f"{str(energy)!r} is no energy network.")
    scorer = FoldedEnergy(judge) if isinstance(judge, EBM) else None
    looks = steps or tuple(s for s in STEPS if s <= getattr(model, "horizon", s))
    chain, unit, usual = _chain(model, clean, max(looks), temperature)
    found = trace(
        clean.images, poisoned, clean.ids, chain, looks, subseed(stream(seed, "defense")),
        scorer=scorer, device=where,
    )  # fmt: skip
    note = {
        "generator": {"kind": kind, "path": str(path), "digest": file_digest(path)},
        "energy": None if energy is None else {"path": str(energy), "digest": file_digest(energy)},
        "dataset": dataset,
        "poisons": what,
        "images": len(clean),
        "seed": seed,
        "temperature": (temperature or TEMPERATURE) if isinstance(model, EBM) else None,
        "unit": unit,
        "freed": found.freed,
        "outmoved": found.outmoved,
        "nearest": found.nearest,
        "figures": facts(found, unit, usual),
    }
    return Traced(found, unit, _write(out.expanduser(), found, note, draw(found, unit, usual)))


def _chain(
    model: Any, images: ImageSet, most: int, temperature: float | None
) -> tuple[Chain, str, int]:
    """Return the chain that a kind of model makes, what its steps are, and the published count."""
    if temperature is not None and not isinstance(model, EBM):
        raise UsageError("temperature is for the Langevin steps of an energy network.")
    if temperature is not None and not 0 < temperature < math.inf:
        raise UsageError(f"temperature must be a number above 0; got {temperature}.")
    if isinstance(model, EBM):
        check_energy_takes(images)
        energy = FoldedEnergy(model, pick_dtype("auto", device_of(model)))
        chain = langevin_chain(energy, temperature=temperature or TEMPERATURE)
        return chain, "Langevin steps", 150
    if isinstance(model, DDPM):
        check_ddpm_takes(model, Diffusion(steps=most), images)
        dtype = pick_dtype("auto", device_of(model))
        return diffusion_chain(NoisePredictor(model, dtype)), "time steps", 75
    raise UsageError(f"what a {type(model).__name__} does to images cannot be measured.")


def _poisons(
    data: Dataset,
    attack: str | None,
    trigger: Path | None,
    poisons: Path | None,
    eps_255: int,
    count: int,
    seed: int,
    store: Store | None,
    device: str,
) -> tuple[ImageSet, NDArray[np.uint8], str]:
    """Return clean rows, the same ones poisoned, and what the poison is."""
    given = [n for n, v in (("attack", attack), ("trigger", trigger), ("poisons", poisons)) if v]
    if len(given) > 1:
        raise UsageError(f"give one source of poisons; got {' and '.join(given)}.")
    if not 1 <= eps_255 <= 255:
        raise UsageError(f"eps_255 is in grey levels, 1..255; got {eps_255}.")
    if attack is not None:
        if store is None:
            raise UsageError("an attack is made in a store; give one.")
        spec = complete(ATTACKS, read_yaml(attack, "--attack"), "--attack")
        crafted, _ = Workshop(store, device).poisoned(data, spec, seed)
        rows = changed_rows(data.train, crafted.train)[:count]
        return data.train.take(rows), crafted.train.images[rows], f"attack {spec.name}"
    if poisons is not None:
        made = read_poison_set(poisons)
        known = np.flatnonzero(made.base_ids != UNKNOWN)[:count]
        clean = data.train.take(data.train.positions(made.base_ids[known]))
        return clean, made.images[known], f"poisons {poisons.name}"
    clean = first_images(data, count)
    if trigger is not None:
        delta, what = read_trigger(trigger, eps_255), f"trigger {trigger.name}"
    else:
        signs = stream(seed, "pattern").integers(0, 2, clean.image_shape) * 2 - 1
        delta, what = (signs * (eps_255 / 255)).astype(np.float32), f"random ±{eps_255}/255 pattern"
    if delta.shape != clean.image_shape:
        raise DataError(f"the trigger has shape {delta.shape}, the images {clean.image_shape}.")
    return clean, add_within(clean.images, delta, eps_255), what


def _curves(found: Trajectory) -> Iterator[tuple[str, NDArray[np.float32]]]:
    yield "clean_moved", found.clean_moved
    yield "clean_to_poison", found.clean_to_poison
    yield "poison_moved", found.poison_moved
    if found.energy_clean is not None and found.energy_poison is not None:
        yield "energy_clean", found.energy_clean
        yield "energy_poison", found.energy_poison


def _rows(found: Trajectory) -> list[dict[str, float]]:
    """Return one row per snapshot: means with their standard errors, and what energy tells."""
    columns: dict[str, NDArray[Any]] = {"steps": np.array(found.steps)}
    for name, values in _curves(found):
        line = band(values)
        columns |= {name: line.mean, f"{name}_se": line.error}
    told = [found.told_apart(i) for i in range(len(found.steps))]
    if told[0] is not None:
        columns["told_apart"] = np.array(told)
    return [
        {name: float(values[i]) for name, values in columns.items()}
        for i in range(len(found.steps))
    ]


def _write(
    out: Path, found: Trajectory, note: dict[str, Json], drawings: list[Drawing]
) -> tuple[Path, ...]:
    rows, text = _rows(found), io.StringIO()
    table = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_text(out / "trajectory.csv", text.getvalue())
    write_text(out / "trajectory.json", json.dumps(note, indent=1) + "\n")
    arrays: dict[str, NDArray[Any]] = {"steps": np.array(found.steps), **dict(_curves(found))}
    if found.energy_noisy is not None:
        arrays["energy_noisy"] = found.energy_noisy
    write_arrays(out / "trajectory.npz", arrays)
    named = [out / f"trajectory.{end}" for end in ("csv", "json", "npz")]
    if found.pictures is not None:
        named.append(out / "images.png")
        grid = sample_grid({_after(s): p for s, p in zip(found.steps, found.pictures, strict=True)})
        write_aside(named[-1], lambda path: grid.save(path, format="png"))
    return (*named, *write(drawings, out))


def _after(steps: int) -> str:
    return f"after {steps}" if steps else "poisoned"
