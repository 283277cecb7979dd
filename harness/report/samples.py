"""The same images clean, poisoned and under each defense, chosen from a run's samples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError
from harness.core.files import read_arrays
from harness.report.collect import Problem
from harness.report.summary import Duel, Summary
from harness.report.trials import Trial

_STAGES = ("clean", "poisoned", "purified")


@dataclass(frozen=True, eq=False)
class Gallery:
    """Images of one attack.

    Attributes:
        title: Attack and setting.
        target: The attacked target of these images, or None.
        clean, poisoned: uint8 (k, C, H, W), the same rows before and after the attack.
        purified: The same rows per defense, uint8 (k, C, H, W); the undefended is not among them.
    """

    title: str
    target: int | None
    clean: NDArray[np.uint8]
    poisoned: NDArray[np.uint8]
    purified: dict[str, NDArray[np.uint8]]


def galleries(summary: Summary, folder: Path) -> tuple[list[Gallery], list[Problem]]:
    """Return one gallery per attack that has samples, and the samples that cannot be read.

    Of each attack, the target and poison seed for which most defenses have samples.

    Args:
        summary: Of the run.
        folder: Where ``<spec_id>.npz`` are; may be absent.
    """
    found, problems = [], []
    for duel in summary.duels:
        chosen = _most_defenses(duel, folder)
        gallery, bad = _gallery(duel, chosen, folder)
        problems += bad
        if gallery:
            found.append(gallery)
    return found, problems


def read_samples(path: Path) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.uint8]]:
    """Read the images clean, poisoned and purified, each uint8 (k, C, H, W), C of 1 or 3.

    Raises:
        DataError: If the file is none such.
    """
    stored = read_arrays(path)
    missing = [name for name in _STAGES if name not in stored]
    if missing:
        raise DataError(f"{path.name} lacks the array {missing[0]!r}.")
    arrays = [stored[name] for name in _STAGES]
    shapes = {a.shape for a in arrays}
    if any(a.dtype != np.uint8 or a.ndim != 4 or not a.size for a in arrays) or len(shapes) != 1:
        raise DataError(
            f"{path.name}: {', '.join(_STAGES)} must be uint8 (k, C, H, W) of one shape; got "
            f"{', '.join(f'{a.dtype} {a.shape}' for a in arrays)}."
        )
    if arrays[0].shape[1] not in (1, 3):
        raise DataError(f"{path.name}: images must have 1 or 3 channels; got {arrays[0].shape[1]}.")
    return arrays[0], arrays[1], arrays[2]


def _most_defenses(duel: Duel, folder: Path) -> list[Trial]:
    groups: dict[tuple[int | None, int | None], list[Trial]] = {}
    for trials in duel.trials.values():
        for trial in trials:
            if trial.attacked and trial.ok and _file(trial, folder).is_file():
                key = trial.target, trial.seeds.get("poison")
                groups.setdefault(key, []).append(trial)
    return max(groups.values(), key=lambda g: len({t.defense for t in g}), default=[])


def _gallery(
    duel: Duel, trials: Sequence[Trial], folder: Path
) -> tuple[Gallery | None, list[Problem]]:
    gallery: Gallery | None = None
    problems = []
    for trial in trials:
        try:
            clean, poisoned, purified = read_samples(_file(trial, folder))
        except DataError as error:
            problems.append(Problem(f"samples/{trial.record.spec_id}.npz", str(error)))
            continue
        if gallery is None:
            title = ", ".join(part for part in (duel.attack, *duel.setting) if part)
            gallery = Gallery(title, trial.target, clean, poisoned, {})
        same = np.array_equal(gallery.clean, clean) and np.array_equal(gallery.poisoned, poisoned)
        if same and trial.defended:  # other rows cannot stand beside these
            gallery.purified.setdefault(trial.defense, purified)
    return gallery, problems


def _file(trial: Trial, folder: Path) -> Path:
    return folder / f"{trial.record.spec_id}.npz"
