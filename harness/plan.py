"""From a study to work: its trials, the artefacts that they need, and what is there already."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from harness.core.data import Dataset
from harness.core.errors import UsageError
from harness.core.params import ComponentSpec, construct, references
from harness.core.protocols import ATTACKS, CLASSIFIERS, DEFENSES
from harness.core.registry import Registry
from harness.core.spec import TrialSpec, attack_id, digest
from harness.core.values import Json
from harness.study import StudySpec, expand
from harness.workshop import Workshop, clean_blocks

STAGES = ("networks", "poisons", "clean rows", "poisoned rows")


@dataclass(frozen=True, slots=True)
class Unit:
    """One artefact that trials need.

    Attributes:
        stage: Which of ``STAGES``; a stage needs those before it.
        payload: What :func:`harness.work.make_unit` takes, without store and device.
        label: What to call it in progress lines.
        key: Its key in the store, where that is known before earlier stages have run.
    """

    stage: str
    payload: dict[str, Json]
    label: str
    key: dict[str, Json] | None


@dataclass(frozen=True, slots=True)
class Plan:
    """A study's work.

    Attributes:
        trials: In the order in which they run.
        units: Artefacts that they need, each once, stage by stage.
    """

    trials: tuple[TrialSpec, ...]
    units: tuple[Unit, ...]

    def of_stage(self, stage: str) -> list[Unit]:
        """Return the units of one stage."""
        return [u for u in self.units if u.stage == stage]


def check_components(study: StudySpec, trials: list[TrialSpec], workshop: Workshop) -> None:
    """Check every component against the data it will meet, before anything is started.

    Raises:
        UsageError: For the first component that cannot work, with the reason.
    """
    seen: set[str] = set()

    def once(*parts: ComponentSpec) -> bool:
        key = digest([p.to_json() for p in parts])
        return not (key in seen or seen.add(key))  # type: ignore[func-returns-value]

    for trial in trials:
        data = workshop.dataset(trial.dataset)
        if once(trial.dataset, trial.attack):
            _check_weights(ATTACKS, trial.attack, workshop)
            attack = workshop.component(ATTACKS, trial.attack, check=True)
            _named(f"attack {trial.attack.name!r}", attack.check, data.train, data.test)
        if once(trial.dataset, trial.defense):
            _check_weights(DEFENSES, trial.defense, workshop)
            defense = workshop.component(DEFENSES, trial.defense, check=True)
            _named(f"defense {trial.defense.name!r}", defense.check, data.train)
        if once(trial.dataset, trial.classifier):
            _check_classifier(trial.classifier, data)


def _named(what: str, check: Any, *data: Any) -> None:
    try:
        check(*data)
    except UsageError as error:
        raise type(error)(f"{what}: {error}") from None


def _check_weights(registry: Registry[Any], spec: ComponentSpec, workshop: Workshop) -> None:
    """Read weights and data that a component refers to, so that a bad file is found now."""
    for name, (kind, reference) in references(registry.get(spec.name), spec).items():
        if kind == "dataset" or "path" in reference:
            _named(f"{registry.kind} {spec.name!r}.{name}", workshop.resource, kind, reference)
        else:
            trained_on = reference["dataset"]
            where = f"{registry.kind} {spec.name!r}.{name}.dataset"
            _named(where, workshop.resource, "dataset", trained_on)


def _check_classifier(spec: ComponentSpec, data: Dataset) -> None:
    classifier = construct(CLASSIFIERS, spec, {})
    shape = data.train.image_shape
    with torch.random.fork_rng(devices=[]):
        model = classifier.build(data.train.num_classes, shape)
    try:
        with torch.inference_mode():
            logits = model.eval()(torch.zeros(1, *shape))
    except RuntimeError as error:
        raise UsageError(
            f"classifier {spec.name!r} cannot take images of shape {shape}: {error}"
        ) from error
    if tuple(logits.shape) != (1, data.train.num_classes):
        raise UsageError(
            f"classifier {spec.name!r} returns {tuple(logits.shape)} for one image; "
            f"expected (1, {data.train.num_classes})."
        )


def make_plan(study: StudySpec, workshop: Workshop, limit: int | None = None) -> Plan:
    """Expand and check a study, and list what its trials need.

    Args:
        study: Checked study.
        workshop: Gives access to datasets and store; nothing is made.
        limit: Keep only so many trials.

    Raises:
        UsageError: If a component cannot work on the data.
    """
    classes = {
        digest(spec.to_json()): workshop.dataset(spec).train.num_classes for spec in study.datasets
    }
    trials = expand(study, classes)
    check_components(study, trials, workshop)
    trials = trials[:limit]
    return Plan(tuple(trials), tuple(_units(trials, workshop, study.labels)))


def _units(trials: list[TrialSpec], workshop: Workshop, labels: dict[str, str]) -> list[Unit]:
    found: dict[str, Unit] = {}

    def add(stage: str, label: str, key: dict[str, Json] | None, **payload: Json) -> None:
        name = digest({"stage": stage, **payload})
        found.setdefault(name, Unit(stage, payload, label, key))

    def add_networks(registry: Registry[Any], spec: ComponentSpec) -> None:
        entry = registry.get(spec.name)
        for kind, reference in references(entry, spec).values():
            if kind == "dataset" or "path" in reference:
                continue
            key = workshop.identity(kind, reference)
            label = f"{reference['name']} on {reference['dataset']['name']}"
            add("networks", label, key, unit="resource", kind=kind, reference=reference)

    def add_poison(trial: TrialSpec, attack: ComponentSpec) -> None:
        if attack.name == "none":
            return
        data, seed = workshop.dataset(trial.dataset), trial.seeds.poison
        add_networks(ATTACKS, attack)
        add(
            "poisons", _aimed(trial, attack, labels),
            workshop.poison_key(data, attack, seed),
            unit="poison", dataset=trial.dataset.to_json(), attack=attack.to_json(), seed=seed,
        )  # fmt: skip

    def add_purified(trial: TrialSpec) -> None:
        if trial.defense.name == "none":
            return
        add_networks(DEFENSES, trial.defense)
        data, seed = workshop.dataset(trial.dataset), trial.seeds.purify
        base = {"dataset": trial.dataset.to_json(), "defense": trial.defense.to_json()}
        name = _short(trial.defense, labels)
        rowwise = DEFENSES.get(trial.defense.name).factory.rowwise
        if rowwise:
            for index, rows in enumerate(clean_blocks(data.train)):
                key = workshop.purify_key(rows, trial.defense, seed)
                label = f"{name} seed {seed} block {index}"
                add("clean rows", label, key, unit="block", seed=seed, block=index, **base)
        if rowwise and trial.attack.name == "none":
            return
        label = f"{name} of {_aimed(trial, trial.attack, labels)}"
        add(
            "poisoned rows", label, None, unit="changed", attack=trial.attack.to_json(),
            poison_seed=trial.seeds.poison, seed=seed, **base,
        )  # fmt: skip

    for trial in trials:
        for attack in (trial.attack, *trial.floor_of):
            add_poison(trial, attack)
        add_purified(trial)
    return sorted(found.values(), key=lambda u: STAGES.index(u.stage))


def _short(spec: ComponentSpec, labels: dict[str, str]) -> str:
    return labels.get(digest(spec.to_json()), spec.name)


def attack_label(attack: ComponentSpec, labels: dict[str, str]) -> str:
    """Return the short name of an attack, without its target."""
    field = ATTACKS.get(attack.name).factory.target_field
    untargeted = {k: v for k, v in attack.params.items() if k != field}
    key = digest(ComponentSpec(attack.name, untargeted).to_json())
    return labels.get(key) or _short(attack, labels)


def names_of(trial: TrialSpec, labels: dict[str, str]) -> dict[str, str]:
    """Return the short names of a trial's components, by role, for tables."""
    return {
        "dataset": _short(trial.dataset, labels),
        "attack": attack_label(trial.attack, labels),
        "defense": _short(trial.defense, labels),
        "classifier": _short(trial.classifier, labels),
    }


def judged_labels(trial: TrialSpec, labels: dict[str, str]) -> dict[str, str]:
    """Return the short name of each attack whose probes a trial is tested on, by its id."""
    return {attack_id(a): attack_label(a, labels) for a in (trial.attack, *trial.floor_of)}


def _aimed(trial: TrialSpec, attack: ComponentSpec, labels: dict[str, str]) -> str:
    field = ATTACKS.get(attack.name).factory.target_field
    target = f" target {attack.params[field]}" if field else ""
    return f"{attack_label(attack, labels)}{target} seed {trial.seeds.poison}"


def counts(plan: Plan, workshop: Workshop, run: Path | None) -> dict[str, tuple[int, int]]:
    """Return, per stage and for the trials, how many there are and how many are there already."""
    total = Counter(u.stage for u in plan.units)
    there = Counter(u.stage for u in plan.units if u.key and workshop.store.has(u.key))
    found = {stage: (total[stage], there[stage]) for stage in STAGES if total[stage]}
    done = sum((run / "records" / f"{t.spec_id}.json").exists() for t in plan.trials) if run else 0
    return {**found, "trials": (len(plan.trials), done)}
