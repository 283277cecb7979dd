"""Study files: YAML with names, parameters and lists of them, expanded to trials."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.params import ComponentSpec, absent, complete, complete_dataset
from harness.core.protocols import ATTACKS, CLASSIFIERS, DEFENSES
from harness.core.registry import Registry
from harness.core.spec import Seeds, TrialSpec, digest
from harness.core.values import Json

SCENARIOS = ("from_scratch",)
KEYS = {
    "name": "short name; the folder of the run",
    "title": "one line on what the study is for",
    "vars": "values that ${name} stands for elsewhere in the file",
    "dataset": "a dataset, or a list of them",
    "scenario": "from_scratch",
    "attacks": "an attack, or a list of them",
    "defenses": "a defense, or a list of them",
    "classifiers": "a classifier, or a list of them",
    "targets": "targets of every attack that has some: a list of integers, or 'all' classes",
    "seeds": "a list used for poison, purify and victim alike, or a list for each, crossed",
    "controls": "add attack none and defense none where they are missing (default true)",
    "resources": "cpus and gpus of one trial",
}


@dataclass(frozen=True, slots=True)
class Resources:
    """What one trial may use: whole CPUs (one thread each), and GPUs, which may be a fraction."""

    cpus: int = 1
    gpus: float = 0.0


@dataclass(frozen=True, slots=True)
class StudySpec:
    """A study, checked, with every default filled in.

    Attributes:
        raw: The study as it was given, after overrides.
        targets: Given targets, ``"all"``, or None.
        overrides: What the command line changed, as ``key: old → new``.
    """

    name: str
    title: str
    datasets: tuple[ComponentSpec, ...]
    scenario: str
    attacks: tuple[ComponentSpec, ...]
    defenses: tuple[ComponentSpec, ...]
    classifiers: tuple[ComponentSpec, ...]
    targets: tuple[int, ...] | str | None
    seeds: tuple[Seeds, ...]
    resources: Resources
    raw: dict[str, Json]
    overrides: tuple[str, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


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
    try:
        raw = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UsageError(f"study {str(path)!r} cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UsageError(f"study {str(path)!r} is no valid YAML: {error}") from error
    if not isinstance(raw, dict):
        raise UsageError(f"study {str(path)!r} must be a mapping; got {type(raw).__name__}.")
    raw.setdefault("name", path.stem)
    changed = tuple(_override(raw, text) for text in overrides)
    try:
        return check_study(_substitute(raw), path.parent, changed)
    except UsageError as error:
        raise type(error)(f"{path}: {error}") from None


def _override(raw: dict[str, Json], text: str) -> str:
    """Set one dotted key in place and return a line that says what changed."""
    key, equals, value_text = text.partition("=")
    if not equals or not key:
        raise UsageError(f"--set takes KEY=VALUE, for example attacks.0.eps_255=16; got {text!r}.")
    try:
        value = yaml.safe_load(value_text)
    except yaml.YAMLError as error:
        raise UsageError(f"--set {text!r}: the value is no valid YAML: {error}") from error
    if isinstance(value, str) and Path(value).expanduser().exists():
        value = str(Path(value).expanduser().resolve())
    node: Any = raw
    parts = key.split(".")
    for depth, part in enumerate(parts):
        here = ".".join(parts[:depth]) or "the study"
        last = depth == len(parts) - 1
        if isinstance(node, list):
            if not part.isdigit() or int(part) >= len(node):
                raise UsageError(f"--set {key}: {here} is a list of {len(node)}; no item {part!r}.")
            index: Any = int(part)
        elif isinstance(node, dict):
            index = part
            if part not in node and not last:
                allowed = sorted(map(str, node))
                raise UnknownComponent(
                    f"--set {key}: {here} has no {part!r}.{nearest(part, allowed)} "
                    f"It has: {', '.join(allowed)}."
                )
        else:
            raise UsageError(f"--set {key}: {here} is {node!r}, which has no parts.")
        if last:
            old = node[index] if isinstance(node, list) else node.get(index, "(default)")
            node[index] = value
            return f"{key}: {old} → {value}"
        if isinstance(node[index], str) and parts[0] != "vars":
            node[index] = {"name": node[index]}
        node = node[index]
    raise AssertionError


def _substitute(raw: dict[str, Json]) -> dict[str, Json]:
    """Replace ``${name}`` by the value of ``vars.name``, everywhere."""
    variables = raw.get("vars") or {}
    if not isinstance(variables, Mapping):
        raise UsageError(f"vars is a mapping from names to values; got {variables!r}.")

    def value_of(name: str) -> Json:
        if name not in variables:
            raise UnknownComponent(
                f"${{{name}}} is not in vars.{nearest(name, variables)} "
                f"Allowed: {', '.join(sorted(variables)) or 'none'}."
            )
        return variables[name]

    def walk(node: Json) -> Json:
        if isinstance(node, dict):
            return {k: walk(v) for k, v in node.items()}
        if isinstance(node, list):
            return [walk(v) for v in node]
        if not isinstance(node, str):
            return node
        whole = re.fullmatch(r"\$\{(\w+)\}", node)
        if whole:
            return value_of(whole[1])
        return re.sub(r"\$\{(\w+)\}", lambda m: str(value_of(m[1])), node)

    return {k: (v if k == "vars" else walk(v)) for k, v in raw.items()}


def check_study(raw: dict[str, Json], base: Path, overrides: tuple[str, ...] = ()) -> StudySpec:
    """Check a study given as plain values (see :func:`read_study`)."""
    for key in raw:
        if key not in KEYS and not str(key).startswith("x-"):
            raise UnknownComponent(
                f"unknown key {key!r}.{nearest(key, KEYS)} Allowed: {', '.join(KEYS)}."
            )
    for key in ("dataset", "attacks", "defenses", "classifiers"):
        if not raw.get(key):
            raise UsageError(f"the study needs {key!r}: {KEYS[key]}.")
    scenario = raw.get("scenario", "from_scratch")
    if scenario not in SCENARIOS:
        raise UsageError(
            f"unknown scenario {scenario!r}.{nearest(str(scenario), SCENARIOS)} "
            f"Allowed: {', '.join(SCENARIOS)}."
        )
    name = raw.get("name")
    if not isinstance(name, str) or not re.fullmatch(r"[\w.-]+", name):
        raise UsageError(f"name is made of letters, digits, '.', '_' and '-'; got {name!r}.")
    attacks = _components(ATTACKS, raw, "attacks", base)
    defenses = _components(DEFENSES, raw, "defenses", base)
    if _flag(raw, "controls", default=True):
        attacks = _with_none(attacks)
        defenses = _with_none(defenses)
    study = StudySpec(
        name=name,
        title=str(raw.get("title", "")),
        datasets=tuple(
            complete_dataset(item, where, base)
            for where, given in _listed(raw["dataset"], "dataset")
            for item in _grid(given, where)
        ),
        scenario=scenario,
        attacks=attacks,
        defenses=defenses,
        classifiers=_components(CLASSIFIERS, raw, "classifiers", base),
        targets=_targets(raw.get("targets")),
        seeds=_seeds(raw.get("seeds", [0])),
        resources=_resources(raw.get("resources", {})),
        raw=raw,
        overrides=overrides,
    )
    study.labels.update(_labels(study))
    return study


def _flag(raw: Mapping[str, Json], key: str, *, default: bool) -> bool:
    value = raw.get(key, default)
    if not isinstance(value, bool):
        raise UsageError(f"{key} is true or false; got {value!r}.")
    return value


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
    for values in itertools.product(*grid.values()):
        yield {**rest, **dict(zip(grid, values, strict=True))}


def _components(
    registry: Registry[Any], raw: Mapping[str, Json], key: str, base: Path
) -> tuple[ComponentSpec, ...]:
    found = [
        complete(registry, item, where, base)
        for where, given in _listed(raw[key], key)
        for item in _grid(given, where)
    ]
    seen: dict[str, int] = {}
    for index, spec in enumerate(found):
        same = seen.setdefault(digest(spec.to_json()), index)
        if same != index:
            raise UsageError(f"{key} {same} and {index} ({spec.name}) are the same component.")
    return tuple(found)


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
    if isinstance(gpus, bool) or not isinstance(gpus, int | float) or gpus < 0:
        raise UsageError(f"resources.gpus is a number from 0 on; got {gpus!r}.")
    if gpus > 1 and gpus != int(gpus):
        raise UsageError(f"resources.gpus above 1 is a whole number; got {gpus!r}.")
    return Resources(cpus, float(gpus))


def expand(study: StudySpec, num_classes: Mapping[str, int]) -> list[TrialSpec]:
    """Return the study's trials: every combination, the controls first.

    Args:
        study: A checked study.
        num_classes: Classes of each dataset, by the hash of its spec (for ``targets: all``).
    """
    trials = []
    for dataset, classifier, seeds in itertools.product(
        study.datasets, study.classifiers, study.seeds
    ):
        classes = num_classes[digest(dataset.to_json())]
        aimed = [pair for attack in study.attacks for pair in _aim(attack, study.targets, classes)]
        floor_of = tuple(attack for attack, _ in aimed if attack.name != "none")
        for (attack, target), defense in itertools.product(aimed, study.defenses):
            control = floor_of if attack.name == "none" else ()
            trials.append(
                TrialSpec(
                    dataset, study.scenario, attack, defense, classifier, seeds, target, control
                )
            )
    return sorted(trials, key=lambda t: t.attack.name != "none")


def _aim(
    attack: ComponentSpec, targets: tuple[int, ...] | str | None, num_classes: int
) -> list[tuple[ComponentSpec, int | None]]:
    """Return one copy of the attack per target."""
    entry = ATTACKS.get(attack.name)
    field_name = entry.factory.target_field
    if field_name is not None and field_name not in attack.params:
        if targets is None:
            raise UsageError(
                f"attack {attack.name!r} needs a target: give 'targets' for the study, "
                f"or {field_name!r} for this attack."
            )
        chosen = range(num_classes) if targets == "all" else targets
        aimed: list[tuple[ComponentSpec, int | None]] = [
            (attack.with_params(**{field_name: int(t)}), int(t)) for t in chosen
        ]
    else:
        aimed = [(attack, attack.params.get(field_name) if field_name else None)]
    for copy, _ in aimed:
        lacking = absent(entry, copy)
        if lacking:
            raise UsageError(f"attack {attack.name!r} needs {' and '.join(map(repr, lacking))}.")
    return aimed


def _flat(params: Mapping[str, Json], prefix: str = "") -> dict[str, Json]:
    flat: dict[str, Json] = {}
    for key, value in params.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def _labels(study: StudySpec) -> dict[str, str]:
    """Return a short name per component: its name, and what tells it from its namesakes."""
    labels = {}
    for group in (study.datasets, study.attacks, study.defenses, study.classifiers):
        for spec in group:
            namesakes = [_flat(s.params) for s in group if s.name == spec.name]
            own = _flat(spec.params)
            differing = [k for k in own if any(o.get(k) != own[k] for o in namesakes)]
            short = [f"{k.rpartition('.')[2]}={own[k]}" for k in differing]
            labels[digest(spec.to_json())] = " ".join([spec.name, *short])
    return labels
