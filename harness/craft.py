"""Crafting as a stage of its own: a study's poisons, made once and kept for every defense."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path

from harness.core.errors import UsageError
from harness.core.params import ComponentSpec
from harness.core.paths import check_writable
from harness.core.protocols import ATTACKS
from harness.core.spec import TrialSpec
from harness.execution import Executor
from harness.interop.export import poison_set_of
from harness.interop.poison_set import write_poison_set
from harness.labels import attack_label, label_of
from harness.making import make_units
from harness.plan import make_plan
from harness.progress import Progress
from harness.study import StudySpec, only_trials
from harness.study_crossing import Crossing
from harness.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Crafted:
    """One attack on one target with one seed, in the store.

    Attributes:
        label: The attack's short name in the study, with the dataset's where there are several.
        target: The attacked target, or None.
        seed: Of the poison.
        rows: Rows that it changes.
        seconds: What crafting cost, now or earlier, without the networks that it needs.
        peak_mib: Largest memory that the process which crafted it had used by then.
        details: What the attack noted.
        folder: Where it was written to, if it was.
    """

    label: str
    target: int | None
    seed: int
    rows: int
    seconds: float
    peak_mib: float
    details: dict[str, float] = field(default_factory=dict)
    folder: Path | None = None


def craft_study(
    study: StudySpec,
    workshop: Workshop,
    services: Callable[[], AbstractContextManager[Executor]],
    progress: Progress,
    out: Path | None = None,
) -> tuple[list[Crafted], list[str]]:
    """Craft what the store lacks of a study's poisons; return all, and what failed.

    Args:
        study: Checked study; its defenses are left out.
        workshop: Gives access to datasets and store.
        services: Opened only if something has to be made.
        progress: Where to show what happens.
        out: Folder to write each poison set to, in the project's own format; None writes none.

    Raises:
        UsageError: If the study has no attack, something in it cannot be used, or ``out`` cannot
            be written.
    """
    only_trials(study)
    parts = tuple(bare for part in study.parts if (bare := _without_defenses(part)))
    if not parts:
        raise UsageError("the study has no attack to craft.")
    plan = make_plan(replace(study, parts=parts), workshop)
    if out is not None:
        for trial in plan.trials:
            check_writable(_folder(out, trial, study))
    errors: list[str] = []
    wanted = {t.spec_id for t in plan.trials}
    doomed: dict[str, str] = {}
    if any(not u.there(workshop) for u in plan.units):
        with services() as executor, progress:
            workshop.store.check_nodes(executor, {})
            doomed = make_units(
                plan.units, wanted, workshop, executor, study.resources, progress, errors
            ).doomed
    else:
        progress.note("every poison is there already")
    # Victims that differ are attacked with the same poisons.
    trials = {
        (_label(t, study), t.target, t.seeds.poison): t
        for t in plan.trials
        if t.spec_id not in doomed
    }
    return [_crafted(t, study, workshop, out) for t in trials.values()], errors


def _without_defenses(part: Crossing) -> Crossing | None:
    attacks = tuple(a for a in part.attacks if a.name != "none")
    return replace(part, attacks=attacks, defenses=(ComponentSpec("none"),)) if attacks else None


def _crafted(trial: TrialSpec, study: StudySpec, workshop: Workshop, out: Path | None) -> Crafted:
    data = workshop.dataset(trial.dataset)
    poisoned, made = workshop.poisoned(data, trial.attack, trial.seeds.poison)
    found = Crafted(
        _label(trial, study), trial.target, trial.seeds.poison, len(poisoned.poison_ids),
        made.seconds, made.peak_mib, poisoned.details,
    )  # fmt: skip
    if out is None:
        return found
    bounds = workshop.component(ATTACKS, trial.attack).bounds(data.train)
    folder = _folder(out, trial, study)
    write_poison_set(folder, poison_set_of(poisoned, bounds, trial.attack.name, trial.dataset.name))
    return replace(found, folder=folder)


def _label(trial: TrialSpec, study: StudySpec) -> str:
    label = attack_label(trial.attack, study.labels)
    several = len(study.datasets) > 1
    return f"{label} on {label_of(trial.dataset, study.labels)}" if several else label


def _folder(out: Path, trial: TrialSpec, study: StudySpec) -> Path:
    """Return where a set is written to: those of one attack side by side, by their numbers."""
    label = _label(trial, study)
    name = f"{label.replace('/', '-').replace(' ', '_')}-seed{trial.seeds.poison}"
    return out / name / str(trial.target or 0)
