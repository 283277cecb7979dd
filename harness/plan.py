"""From a study to work: its trials, checked, and the artefacts that they need."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch

from harness.core.data import Dataset
from harness.core.errors import FAILURES, DataError, UsageError, first_line, no_exit
from harness.core.params import ComponentSpec, construct, is_trained, references
from harness.core.protocols import ATTACKS, CLASSIFIERS, DEFENSES
from harness.core.registry import Registry, one_message
from harness.core.spec import TrialSpec, digest
from harness.study import StudySpec, only_trials
from harness.study_trials import expand
from harness.units import Unit, units_of
from harness.workshop import Workshop


@dataclass(frozen=True, slots=True)
class Plan:
    """A study's work.

    Attributes:
        trials: In the order in which they run.
        units: Artefacts that they need, each once, stage by stage.
    """

    trials: tuple[TrialSpec, ...]
    units: tuple[Unit, ...]

    def of_stage(self, stage: str, trials: Collection[str]) -> list[Unit]:
        """Return the units of one stage that these trials need, by their ids."""
        return [u for u in self.units if u.stage == stage and not u.trials.isdisjoint(trials)]


def check_components(trials: list[TrialSpec], workshop: Workshop) -> None:
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
            check_attack(trial.attack, data, workshop)
        if once(trial.dataset, trial.defense):
            check_weights(DEFENSES, trial.defense, workshop)
            defense = workshop.component(DEFENSES, trial.defense, check=True)
            with one_message("defense", DEFENSES.get(trial.defense.name)):
                defense.check(data.train)
        if once(trial.dataset, trial.classifier):
            check_weights(CLASSIFIERS, trial.classifier, workshop)
            check_classifier(trial.classifier, data)


def check_attack(spec: ComponentSpec, data: Dataset, workshop: Workshop) -> None:
    """Check an attack against the data that it will meet, without crafting anything."""
    check_weights(ATTACKS, spec, workshop)
    attack = workshop.component(ATTACKS, spec, check=True)
    with one_message("attack", ATTACKS.get(spec.name)):
        attack.check(data.train, data.test)


def _named(what: str, check: Any, *data: Any) -> None:
    try:
        with no_exit(what):
            check(*data)
    except UsageError as error:
        raise type(error)(f"{what}: {error}") from None


def check_weights(registry: Registry[Any], spec: ComponentSpec, workshop: Workshop) -> None:
    """Read weights and data that a component refers to, so that a bad file is found now."""
    for reference in references(registry.get(spec.name), spec):
        where = f"{registry.kind} {spec.name!r}.{reference.parameter}"
        if reference.kind == "defense":
            check_weights(DEFENSES, ComponentSpec.from_json(reference.raw), workshop)
            continue
        check = workshop.check_trained if is_trained(reference.raw) else workshop.resource
        _named(where, check, reference.kind, reference.raw)


def check_classifier(spec: ComponentSpec, data: Dataset) -> None:
    """Check that a classifier can be built for a dataset's images, and trained on them.

    Raises:
        UsageError: If not, with the reason.
    """
    classifier = construct(CLASSIFIERS, spec, {})
    shape = data.train.image_shape
    pad = classifier.recipe.crop_pad
    if pad >= min(shape[1:]):
        raise UsageError(
            f"classifier {spec.name!r}: crop_pad {pad} needs images of more than {pad} px; "
            f"they are {shape}."
        )
    if classifier.recipe.cutout > min(shape[1:]):
        raise UsageError(
            f"classifier {spec.name!r}: cutout {classifier.recipe.cutout} is larger than the "
            f"images; they are {shape}."
        )
    try:
        with torch.random.fork_rng(devices=[]):
            model = classifier.build(data.train.num_classes, shape)
        with torch.inference_mode():
            logits = model.eval()(torch.zeros(1, *shape))
    except UsageError as error:
        raise type(error)(f"classifier {spec.name!r}: {error}") from None
    except FAILURES as error:
        raise UsageError(
            f"classifier {spec.name!r} cannot take images of shape {shape}: {first_line(error)}"
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
    only_trials(study)
    classes = {}
    for spec in study.datasets:
        data = workshop.dataset(spec)
        if not len(data.test):
            raise DataError(f"dataset {spec.name!r} has no test rows; there is nothing to measure.")
        classes[digest(spec.to_json())] = data.train.num_classes
    trials = expand(study, classes)
    check_components(trials, workshop)
    trials = trials[:limit]
    return Plan(tuple(trials), tuple(units_of(trials, workshop, study.labels)))
