"""From a checked study to its trials: every combination, targets filled in, controls once."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

from harness.controls import once_each
from harness.core.errors import UsageError
from harness.core.params import ComponentSpec, absent
from harness.core.protocols import ATTACKS
from harness.core.spec import TrialSpec, digest
from harness.study import StudySpec
from harness.study_crossing import Crossing


def expand(study: StudySpec, num_classes: Mapping[str, int]) -> list[TrialSpec]:
    """Return the study's trials: every combination, the controls first.

    Without a defense the seed of the purification decides nothing; such a trial stands once, not
    once per seed, which would pass for independent repetitions. Likewise a training without an
    attack that several parts ask for: it is judged on the attacks of them all.

    Args:
        study: A checked study.
        num_classes: Classes of each dataset, by the hash of its spec (for ``targets: all``).

    Raises:
        UsageError: If an attack has no target, or two trials are the same.
    """
    trials: dict[str, TrialSpec] = {}
    for trial in _trials(study, num_classes):
        if trial.spec_id in trials:
            raise UsageError(f"attack {trial.attack.name!r} on target {trial.target} stands twice.")
        trials[trial.spec_id] = trial
    return list(trials.values())


def count_trials(study: StudySpec, num_classes: Mapping[str, int]) -> int:
    """Return the number of trials that :func:`expand` gives, without their identities."""
    return len(_trials(study, num_classes))


def _trials(study: StudySpec, num_classes: Mapping[str, int]) -> list[TrialSpec]:
    crossed = [trial for part in study.parts for trial in _cross(part, num_classes)]
    controls = once_each(trial for trial in crossed if trial.attack.name == "none")
    return [*controls, *(trial for trial in crossed if trial.attack.name != "none")]


def _cross(part: Crossing, num_classes: Mapping[str, int]) -> Iterator[TrialSpec]:
    if part.targets is not None and not any(map(_open_target, part.attacks)):
        raise UsageError("'targets' is given, and no attack of the study takes a target from it.")
    undefended = {(s.poison, s.victim): s for s in reversed(part.seeds)}
    clean: dict[tuple[int, int], list[int]] = {}
    for s in part.seeds:
        clean.setdefault((s.purify, s.victim), []).append(s.poison)
    for dataset, classifier, seeds in itertools.product(
        part.datasets, part.classifiers, part.seeds
    ):
        classes = num_classes[digest(dataset.to_json())]
        aimed = [pair for attack in part.attacks for pair in _aim(attack, part.targets, classes)]
        floor_of = tuple(attack for attack, _ in aimed if attack.name != "none")
        for (attack, target), defense in itertools.product(aimed, part.defenses):
            if defense.name == "none" and undefended[seeds.poison, seeds.victim] != seeds:
                continue
            if attack.name != "none":
                yield TrialSpec(dataset, part.scenario, attack, defense, classifier, seeds, target)
                continue
            first, *others = dict.fromkeys(clean[seeds.purify, seeds.victim])
            if seeds.poison == first and (defense.name == "none" or part.clean_defended):
                yield TrialSpec(
                    dataset, part.scenario, attack, defense, classifier, seeds, target, floor_of,
                    tuple(others) if floor_of else (),
                )  # fmt: skip


def _open_target(attack: ComponentSpec) -> str | None:
    """Return the parameter that the study's targets fill, unless the attack has none or its own.

    Raises:
        UsageError: If that parameter has a default, which would quietly be used instead.
    """
    entry = ATTACKS.get(attack.name)
    field_name: str | None = entry.factory.target_field
    if field_name is None:
        return None
    if field_name not in entry.parameters or not entry.parameters[field_name].required:
        raise UsageError(
            f"target_field of attack {attack.name!r} is {field_name!r}; it must be a parameter "
            "without a default."
        )
    return None if field_name in attack.params else field_name


def _aim(
    attack: ComponentSpec, targets: tuple[int, ...] | str | None, num_classes: int
) -> list[tuple[ComponentSpec, int | None]]:
    """Return one copy of the attack per target, with its target."""
    entry, unset = ATTACKS.get(attack.name), _open_target(attack)
    if unset is None:
        field_name = entry.factory.target_field
        aimed = [(attack, attack.params[field_name] if field_name else None)]
    elif targets is None:
        raise UsageError(
            f"attack {attack.name!r} needs a target: give 'targets' for the study, "
            f"or {unset!r} for this attack."
        )
    else:
        chosen = range(num_classes) if targets == "all" else targets
        aimed = [(attack.with_params(**{unset: int(t)}), int(t)) for t in chosen]
    for copy, _ in aimed:
        lacking = absent(entry, copy)
        if lacking:
            raise UsageError(f"attack {attack.name!r} needs {' and '.join(map(repr, lacking))}.")
    return aimed
