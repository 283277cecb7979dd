"""Study files: YAML with names, parameters and lists of them, expanded to trials."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from harness.controls import once_each
from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.params import (
    ComponentSpec,
    absent,
    complete,
    complete_classifier,
    complete_dataset,
)
from harness.core.paths import check_name
from harness.core.protocols import ATTACKS, DEFENSES, SCENARIOS
from harness.core.registry import Registry
from harness.core.spec import Seeds, TrialSpec, digest
from harness.core.values import Json, reject_unknown
from harness.core.yaml_text import read_yaml
from harness.labels import labels_of
from harness.overrides import set_value, substitute
from harness.search.section import Search, read_search
from harness.trajectory_spec import TrajectorySpec, read_trajectories

KEYS = {
    "name": "short name; the folder of the run",
    "title": "one line on what the study is for",
    "reproduces": "the published table or figure that it repeats: paper, item, reference",
    "cost": "what it costs, in words, and how that is known",
    "before": "commands that have to run first, a list",
    "vars": "values that ${name} stands for elsewhere in the file",
    "dataset": "a dataset, or a list of them",
    "scenario": "how victims are trained: from_scratch (default), linear_transfer, fine_tune",
    "attacks": "an attack, or a list of them",
    "defenses": "a defense, or a list of them",
    "classifiers": "a classifier, or a list of them",
    "targets": "targets of every attack that has some: a list of integers, or 'all' classes",
    "seeds": "a list used for poison, purify and victim alike, or a list for each, crossed",
    "controls": (
        "true (default) adds attack none and defense none where they are missing; undefended adds "
        "attack none without the defenses alone; false adds nothing"
    ),
    "resources": "cpus and gpus of one trial",
    "search": "which parameters of a defense 'puregen-bench search' finds, and how",
    "parts": "a list of crossings, each with keys of its own that win over those beside 'parts'",
    "trajectories": "a list of purifications to follow images through, instead of any trials",
}
# What a part of a study can have of its own.
CROSSED = (
    "dataset", "scenario", "attacks", "defenses", "classifiers", "targets", "seeds", "controls",
)  # fmt: skip
# What cannot stand beside trajectories, which say for themselves what they need.
OF_TRIALS = (*(key for key in CROSSED if key != "dataset"), "search", "parts")


@dataclass(frozen=True, slots=True)
class Source:
    """What was published, and a study repeats.

    Attributes:
        paper: Where, for example ``arXiv:2405.18627``.
        item: Which of its tables or figures: ``Table 1``.
        reference: File of its numbers in ``harness/report/published``, or "" for none.
    """

    paper: str
    item: str
    reference: str = ""


@dataclass(frozen=True, slots=True)
class Resources:
    """What one trial may use: whole CPUs (one thread each), and GPUs, which may be a fraction."""

    cpus: int = 1
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class Crossing:
    """Components of which each is combined with each.

    Attributes:
        targets: Given targets, ``"all"``, or None.
        seeds: One of each of the sources of variance per repetition.
        clean_defended: Whether attack ``none`` meets the defenses too.
    """

    datasets: tuple[ComponentSpec, ...]
    scenario: ComponentSpec
    attacks: tuple[ComponentSpec, ...]
    defenses: tuple[ComponentSpec, ...]
    classifiers: tuple[ComponentSpec, ...]
    targets: tuple[int, ...] | str | None
    seeds: tuple[Seeds, ...]
    clean_defended: bool = True


@dataclass(frozen=True, slots=True)
class StudySpec:
    """A study, checked, with every default filled in.

    Attributes:
        parts: Its crossings; most studies are one.
        raw: The study as it was given, after overrides.
        overrides: What the command line changed, as ``key: old → new``.
        labels: Short name of each component, by the hash of its spec.
        reproduces: What it repeats, if anything; this and the next two are for people alone, and
            no trial's identity depends on them.
        cost: What it costs, in words.
        before: Commands that have to run first.
        search: Which parameters of a defense to find, if any; a plain run knows nothing of it.
        trajectories: Images to follow through purifications; a study has these or ``parts``.
    """

    name: str
    title: str
    parts: tuple[Crossing, ...]
    resources: Resources
    raw: dict[str, Json]
    overrides: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    reproduces: Source | None = None
    cost: str = ""
    before: tuple[str, ...] = ()
    search: Search | None = None
    trajectories: tuple[TrajectorySpec, ...] = ()

    @property
    def datasets(self) -> tuple[ComponentSpec, ...]:
        """The datasets of all parts or trajectories, each once; likewise the others."""
        followed = ((one.dataset,) for one in self.trajectories)
        return _once((*(part.datasets for part in self.parts), *followed))

    @property
    def scenarios(self) -> tuple[ComponentSpec, ...]:
        """The scenarios."""
        return _once((part.scenario,) for part in self.parts)

    @property
    def attacks(self) -> tuple[ComponentSpec, ...]:
        """The attacks, without the targets that the study gives them."""
        followed = ((one.attack,) for one in self.trajectories if one.attack)
        return _once((*(part.attacks for part in self.parts), *followed))

    @property
    def defenses(self) -> tuple[ComponentSpec, ...]:
        """The defenses."""
        return _once(part.defenses for part in self.parts)

    @property
    def classifiers(self) -> tuple[ComponentSpec, ...]:
        """The victims' classifiers."""
        return _once(part.classifiers for part in self.parts)


def _once(groups: Iterable[tuple[ComponentSpec, ...]]) -> tuple[ComponentSpec, ...]:
    found = {digest(spec.to_json()): spec for group in groups for spec in group}
    return tuple(found.values())


def read_study(path: Path, overrides: Sequence[str] = ()) -> StudySpec:
    """Read and check a study file.

    Args:
        path: YAML file; relative paths in it start from its folder.
        overrides: ``key=value`` with a dotted key (``attacks.0.eps_255=16``), value as YAML. They
            win over the file, which wins over defaults. A path that exists relative to the current
            folder is taken from there.

    Raises:
        UsageError: For anything that cannot be used; nothing has been started by then.
    """
    what = f"study {str(path)!r}"
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"{what} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise UsageError(f"{what} is no text in UTF-8: {error}.") from error
    raw = read_yaml(text, what)
    if not isinstance(raw, dict):
        raise UsageError(f"{what} must be a mapping; got {type(raw).__name__}.")
    raw.setdefault("name", path.stem)
    changed = tuple(set_value(raw, text) for text in overrides)
    try:
        return check_study(substitute(raw), path.parent, changed)
    except UsageError as error:
        raise type(error)(f"{path}: {error}") from None


def check_study(raw: dict[str, Json], base: Path, overrides: tuple[str, ...] = ()) -> StudySpec:
    """Check a study given as plain values (see :func:`read_study`)."""
    for key in raw:
        if key not in KEYS and not key.startswith("x-"):
            raise UnknownComponent(
                f"unknown key {key!r}.{nearest(key, KEYS)} Allowed: {', '.join(KEYS)}."
            )
    name = raw.get("name")
    study = StudySpec(
        name=check_name(name, "name"),
        title=_text(raw.get("title", ""), "title"),
        reproduces=_source(raw.get("reproduces")),
        cost=_text(raw.get("cost", ""), "cost"),
        before=_commands(raw.get("before", [])),
        parts=_crossings(raw, base),
        resources=_resources(raw.get("resources", {})),
        search=read_search(raw, base),
        trajectories=read_trajectories(raw, base) if "trajectories" in raw else (),
        raw=raw,
        overrides=overrides,
    )
    try:
        json.dumps(raw, allow_nan=False)
    except ValueError:
        raise UsageError("the study holds a number that is not finite.") from None
    if study.search is not None and study.search.report:
        _check_report({**raw, **study.search.report}, base)
    for group in (study.datasets, study.attacks, study.defenses, study.scenarios):
        study.labels.update(labels_of(group))
    for scenario in study.scenarios:  # with which a classifier's label stands in every table
        of = (part.classifiers for part in study.parts if part.scenario == scenario)
        study.labels.update(labels_of(_once(of)))
    return study


def only_trials(study: StudySpec) -> None:
    """Refuse a study of trajectories, where trials are wanted.

    Raises:
        UsageError: If the study has no trials, but follows images.
    """
    if study.trajectories:
        raise UsageError(
            f"study {study.name!r} has no trials: it follows images through purifications "
            "(trajectories). Allowed for it: run, validate, plan, describe."
        )


def _crossings(raw: Mapping[str, Json], base: Path) -> tuple[Crossing, ...]:
    if "trajectories" not in raw:
        return tuple(_crossing(keys, base, where) for keys, where in _parts(raw))
    beside = [key for key in OF_TRIALS if key in raw]
    if beside:
        raise UsageError(
            f"trajectories cannot stand beside {', '.join(map(repr, beside))}: a study follows "
            "images, or it has trials."
        )
    return ()


def _check_report(raw: dict[str, Json], base: Path) -> None:
    """Check the targets and seeds on which a search reports what it has found."""
    try:
        check_study({key: value for key, value in raw.items() if key != "search"}, base)
    except UsageError as error:
        raise type(error)(f"search.report: {error}") from None


def _text(value: Json, what: str) -> str:
    if not isinstance(value, str):
        raise UsageError(f"{what} is text, in quotes if need be; got {value!r}.")
    return value


def _source(value: Json) -> Source | None:
    if value is None:
        return None
    if not isinstance(value, Mapping) or not {"paper", "item"} <= set(value):
        raise UsageError(
            f"reproduces has a paper and an item, and may have a reference; got {value!r}."
        )
    reject_unknown(dict.fromkeys(("paper", "item", "reference")), value, "reproduces")
    return Source(**{key: _text(text, f"reproduces.{key}") for key, text in value.items()})


def _commands(value: Json) -> tuple[str, ...]:
    if not isinstance(value, list):
        raise UsageError(f"before is a list of commands; got {value!r}.")
    return tuple(_text(command, "before, a list of commands: each") for command in value)


def _parts(raw: Mapping[str, Json]) -> Iterator[tuple[dict[str, Json], str]]:
    """Yield the keys of each crossing, and what to call it in messages."""
    parts = raw.get("parts")
    if parts is None:
        yield dict(raw), ""
        return
    if not isinstance(parts, list) or not parts:
        raise UsageError(f"parts is a list of mappings; got {parts!r}.")
    shared = {key: raw[key] for key in CROSSED if key in raw}
    for index, own in enumerate(parts):
        where = f"parts[{index}]"
        if not isinstance(own, Mapping):
            raise UsageError(f"{where} is a mapping; got {own!r}.")
        reject_unknown(dict.fromkeys(CROSSED), own, where)
        yield {**shared, **own}, where


def _crossing(raw: Mapping[str, Json], base: Path, where: str) -> Crossing:
    try:
        return _crossed(raw, base)
    except UsageError as error:
        raise type(error)(f"{where}: {error}" if where else str(error)) from None


def _crossed(raw: Mapping[str, Json], base: Path) -> Crossing:
    for key in ("dataset", "attacks", "defenses", "classifiers"):
        if not raw.get(key):
            raise UsageError(f"the study needs {key!r}: {KEYS[key]}.")
    attacks = _components(ATTACKS, raw, "attacks", base)
    defenses = _components(DEFENSES, raw, "defenses", base)
    controls = raw.get("controls", True)
    if not isinstance(controls, bool) and controls != "undefended":
        raise UsageError(f"controls is true, undefended or false; got {controls!r}.")
    if controls:
        attacks = _with_none(attacks)
        defenses = _with_none(defenses)
    part = Crossing(
        datasets=_each(raw, "dataset", lambda item, where: complete_dataset(item, where, base)),
        scenario=complete(SCENARIOS, raw.get("scenario", "from_scratch"), "scenario", base),
        attacks=attacks,
        defenses=defenses,
        classifiers=_each(raw, "classifiers", lambda i, w: complete_classifier(i, w, base)),
        targets=_targets(raw.get("targets")),
        seeds=_seeds(raw.get("seeds", [0])),
        clean_defended=controls != "undefended",
    )
    _check_start(part)
    return part


def _check_start(part: Crossing) -> None:
    """Check that victims name the weights they start from where, and only where, they need some."""
    wanted = SCENARIOS.get(part.scenario.name).factory.pretrained
    for index, classifier in enumerate(part.classifiers):
        given = "pretrained" in classifier.params
        if given != wanted:
            verb = "needs" if wanted else "takes no"
            raise UsageError(
                f"classifiers[{index}] ({classifier.name}): scenario {part.scenario.name!r} "
                f"{verb} 'pretrained', the weights that the victim starts from."
            )


def _with_none(components: tuple[ComponentSpec, ...]) -> tuple[ComponentSpec, ...]:
    if any(c.name == "none" for c in components):
        return components
    return (ComponentSpec("none"), *components)


def _listed(value: Json, where: str) -> list[tuple[str, Json]]:
    if isinstance(value, list):
        return [(f"{where}[{i}]", item) for i, item in enumerate(value)]
    return [(where, value)]


def _grid(given: Json, where: str) -> Iterator[Json]:
    """Expand ``grid: {steps: [50, 100]}`` into one component per combination."""
    if not isinstance(given, Mapping) or "grid" not in given:
        yield given
        return
    grid = given["grid"]
    if not isinstance(grid, Mapping) or not all(isinstance(v, list) and v for v in grid.values()):
        raise UsageError(f"{where}.grid maps parameters to lists of values; got {grid!r}.")
    rest = {k: v for k, v in given.items() if k != "grid"}
    twice = [k for k in grid if k in rest]
    if twice:
        raise UsageError(f"{where}: {twice[0]!r} is given, and in the grid as well.")
    for values in itertools.product(*grid.values()):
        yield {**rest, **dict(zip(grid, values, strict=True))}


def _components(
    registry: Registry[Any], raw: Mapping[str, Json], key: str, base: Path
) -> tuple[ComponentSpec, ...]:
    return _each(raw, key, lambda item, where: complete(registry, item, where, base))


def _each(
    raw: Mapping[str, Json], key: str, check: Callable[[Json, str], ComponentSpec]
) -> tuple[ComponentSpec, ...]:
    """Check each component under a key; two that are the same would be one trial twice."""
    found = [
        (where, check(item, where))
        for where, given in _listed(raw[key], key)
        for item in _grid(given, where)
    ]
    seen: dict[str, str] = {}
    for where, spec in found:
        hash_ = digest(spec.to_json())
        if hash_ in seen:
            raise UsageError(f"{seen[hash_]} and {where} ({spec.name}) are the same.")
        seen[hash_] = where
    return tuple(spec for _, spec in found)


def _integers(value: Json, what: str) -> tuple[int, ...]:
    ok = isinstance(value, list) and value and all(type(v) is int and v >= 0 for v in value)
    if not ok or len(set(value)) != len(value):
        raise UsageError(f"{what} is a list of different integers from 0 on; got {value!r}.")
    return tuple(value)


def _targets(value: Json) -> tuple[int, ...] | str | None:
    if value is None or value == "all":
        return "all" if value else None
    return _integers(value, "targets")


def _seeds(value: Json) -> tuple[Seeds, ...]:
    if isinstance(value, Mapping):
        allowed = ("poison", "purify", "victim")
        for key in value:
            if key not in allowed:
                raise UnknownComponent(
                    f"seeds has no {key!r}.{nearest(key, allowed)} Allowed: {', '.join(allowed)}."
                )
        lists = [_integers(value.get(k, [0]), f"seeds.{k}") for k in allowed]
        return tuple(Seeds(*seeds) for seeds in itertools.product(*lists))
    return tuple(Seeds(s, s, s) for s in _integers(value, "seeds"))


def _resources(value: Json) -> Resources:
    if not isinstance(value, Mapping) or set(value) - {"cpus", "gpus"}:
        raise UsageError(f"resources takes cpus and gpus; got {value!r}.")
    cpus, gpus = value.get("cpus", 1), value.get("gpus", 0)
    if type(cpus) is not int or cpus < 1:
        raise UsageError(f"resources.cpus is a whole number from 1 on; got {cpus!r}.")
    number = isinstance(gpus, int | float) and not isinstance(gpus, bool) and math.isfinite(gpus)
    if not number or gpus < 0:
        raise UsageError(f"resources.gpus is a number from 0 on; got {gpus!r}.")
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(f"resources.gpus above 1 is a whole number; got {gpus!r}.")
    return Resources(cpus, float(gpus))


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
