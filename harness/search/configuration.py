"""From values to trials: a configuration is one defense, and judged like any other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from harness.core.params import ComponentSpec, complete
from harness.core.protocols import DEFENSES
from harness.core.spec import TrialSpec, digest
from harness.core.values import Json
from harness.search.section import Search
from harness.search.space import Values
from harness.study import StudySpec
from harness.study_trials import expand

KEPT = 3  # one of so many goes on to the next rung


@dataclass(frozen=True, slots=True)
class Configuration:
    """One of those that are tried.

    Attributes:
        number: In the order in which they were proposed, from 0 on.
        values: What tells it from the others.
        spec: The defense.
        label: In tables.
        trials: Those under an attack, which it is judged by, in the order of the study.
        controls: Those without an attack, for tables alone.
    """

    number: int
    values: Values
    spec: ComponentSpec
    label: str
    trials: tuple[TrialSpec, ...]
    controls: tuple[TrialSpec, ...]


def search_of(study: StudySpec) -> Search:
    """Return a study's search, which it has."""
    if study.search is None:
        raise ValueError("the study has no search")
    return study.search


def other_defenses(study: StudySpec) -> tuple[ComponentSpec, ...]:
    """Return the study's defenses beside the one that is varied."""
    search = search_of(study)
    where = f"defenses[{search.index}]"
    varied = complete(DEFENSES, search.template, where, search.base)
    return tuple(d for d in study.defenses if d != varied)


def references(study: StudySpec, classes: Mapping[str, int]) -> tuple[TrialSpec, ...]:
    """Return the trials of the other defenses: what configurations are compared with."""
    others = other_defenses(study)
    return tuple(expand(_with(study, others), classes)) if others else ()


def configure(
    study: StudySpec, number: int, values: Values, classes: Mapping[str, int]
) -> Configuration:
    """Return a configuration with its trials.

    Raises:
        UsageError: If the defense cannot take the values.
    """
    spec = search_of(study).spec(values)
    trials = expand(_with(study, (spec,)), classes)
    return Configuration(
        number,
        values,
        spec,
        _label(study, spec, values),
        tuple(t for t in trials if t.attack.name != "none"),
        tuple(t for t in trials if t.attack.name == "none"),
    )


def grown(study: StudySpec, tried: Sequence[Configuration]) -> StudySpec:
    """Return the study with these configurations for the defense that is varied."""
    specs = [*other_defenses(study), *(one.spec for one in tried)]
    unique = {digest(spec.to_json()): spec for spec in specs}
    labels = {digest(one.spec.to_json()): one.label for one in tried}
    return replace(_with(study, tuple(unique.values())), labels={**labels, **study.labels})


def _with(study: StudySpec, defenses: tuple[ComponentSpec, ...]) -> StudySpec:
    return replace(study, parts=tuple(replace(p, defenses=defenses) for p in study.parts))


def _label(study: StudySpec, spec: ComponentSpec, values: Values) -> str:
    """Return a label that does not depend on what else is tried, as labels of a study do."""
    parts = [f"{name.rpartition('.')[2]}={_brief(value)}" for name, value in values.items()]
    label = " ".join([spec.name, *parts])
    key = digest(spec.to_json())
    taken = any(text == label and other != key for other, text in study.labels.items())
    return f"{label} #{key[:6]}" if taken else label


def _brief(value: Json) -> str:
    if isinstance(value, Mapping):
        return str(value.get("name", "…"))
    if isinstance(value, list):
        return ",".join(map(_brief, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


def rungs(trials: int, *, halving: bool) -> tuple[int, ...]:
    """Return after how many trials configurations are compared; the last is all of them.

    >>> rungs(9, halving=True)
    (1, 3, 9)
    >>> rungs(4, halving=True)
    (1, 2, 4)
    """
    found = [trials]
    while halving and found[0] > 1:
        found.insert(0, math.ceil(found[0] / KEPT))
    return tuple(found)


def bracket_size(search: Search, trials: int, tried: int) -> int:
    """Return how many configurations to propose next, and to compare with each other.

    Random and grid learn nothing on the way and propose all at once. A bracket of successive
    halving is large enough that one of it gets to the last rung.
    """
    left = search.configurations - tried
    if search.algorithm != "optuna":
        return left
    steps = len(rungs(trials, halving=search.halving)) - 1
    return min(left, max(search.at_once, int(KEPT**steps)))


def case(trial: TrialSpec) -> str:
    """Return what a trial shares with its undefended twin, which knows no purification seed."""
    parts = (trial.dataset, trial.scenario, trial.attack, trial.classifier)
    seeds = (trial.seeds.poison, trial.seeds.victim)
    return digest([[part.to_json() for part in parts], trial.target, *seeds])
