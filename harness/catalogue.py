"""What there is: components and studies, for people and for programs."""

from __future__ import annotations

import json
import types
import typing
from collections.abc import Iterator
from dataclasses import MISSING
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from harness import sweeps
from harness.core.data import ImageSet
from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.params import check_defaults, resource_of
from harness.core.protocols import REGISTRIES
from harness.core.registry import Entry, Parameter, Registry
from harness.core.spec import digest
from harness.core.values import Json, nested, plain
from harness.paper import PAPER, without_study
from harness.study import StudySpec, read_study
from harness.study_trials import count_trials

CLASSES = {"cifar100": 100, "tiny_imagenet": 200}  # of datasets that are not read here; others: 10
PLURALS = {f"{kind}s": kind for kind in REGISTRIES}


def registry_of(kind: str) -> Registry[Any]:
    """Return the registry of a kind, singular or plural.

    Raises:
        UnknownComponent: If there is no such kind.
    """
    singular = PLURALS.get(kind, kind)
    if singular not in REGISTRIES:
        allowed = sorted(PLURALS)
        raise UnknownComponent(
            f"unknown kind {kind!r}.{nearest(kind, allowed)} Allowed: {', '.join(allowed)}."
        )
    return REGISTRIES[singular]


def list_kind(kind: str) -> list[dict[str, Json]]:
    """Return name and summary of each component of a kind, or of each study."""
    if kind in ("studies", "study"):
        return [_study(name) for name in sweeps.names()]
    _check_kind(kind)
    return [_item(registry_of(kind), name) for name in registry_of(kind).names()]


def _check_kind(kind: str) -> None:
    """Refuse what is no kind of component; studies, which are none, are named with them."""
    if kind not in PLURALS and kind not in REGISTRIES:
        allowed = sorted([*PLURALS, "studies"])
        raise UnknownComponent(
            f"unknown kind {kind!r}.{nearest(kind, allowed)} Allowed: {', '.join(allowed)}."
        )


def _item(registry: Registry[Any], name: str) -> dict[str, Json]:
    try:
        entry = registry.get(name)
    except UsageError as error:  # one broken file does not hide the others
        return {"name": name, "summary": f"({error})", "paper": "", "module": ""}
    return {
        "name": name, "summary": entry.summary, "paper": entry.paper, "module": entry.origin,
    }  # fmt: skip


def _study(name: str) -> dict[str, Json]:
    try:
        study = read_study(sweeps.path_of(name))
        trials = _count(study)
    except UsageError as error:  # as above
        trials = 0
        title, item, cost, followed = f"({error})", "", "", 0
    else:
        title, cost, followed = study.title, study.cost, len(study.trajectories)
        item = study.reproduces.item if study.reproduces else ""
    return {
        "name": name, "summary": title, "reproduces": item, "trials": trials,
        "trajectories": followed, "cost": cost,
    }  # fmt: skip


def _count(study: StudySpec) -> int:
    """Count a study's trials without reading its data."""
    classes = {digest(d.to_json()): CLASSES.get(d.name, 10) for d in study.datasets}
    return count_trials(study, classes)


def list_table(kind: str) -> RenderableType:
    """Return the components of a kind as a table; of studies, with what no study repeats."""
    if kind in ("studies", "study"):
        return _studies_table()
    table = Table(box=None, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("what it is")
    for item in list_kind(kind):
        table.add_row(item["name"], item["summary"])
    return table


def _studies_table() -> Group:
    table = Table(box=None, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("what it is", ratio=2)
    table.add_column("reproduces", no_wrap=True)
    table.add_column("trials", justify="right", no_wrap=True)
    table.add_column("cost", ratio=3)
    for item in list_kind("studies"):
        trials = "-" if item["trajectories"] else str(item["trials"])  # it trains no victim
        cells = (item["name"], item["summary"], item["reproduces"], trials)
        table.add_row(*map(Text, (*cells, item["cost"])))
    lines = [f"{i.name} ({i.shows}): {i.instead}." for i in without_study()]
    return Group(table, Text(), Text(f"Of {PAPER} no study repeats:"), *map(Text, lines))


def _describe_study(name: str) -> dict[str, Json]:
    study = read_study(sweeps.path_of(name))
    given = study.reproduces
    parts = {
        role: [study.labels[digest(spec.to_json())] for spec in getattr(study, role)]
        for role in ("datasets", "scenarios", "attacks", "defenses", "classifiers")
    }
    return {
        **_study(name),
        "kind": "study",
        "paper": given.paper if given else "",
        "reference": given.reference if given else "",
        "before": list(study.before),
        "variables": study.raw.get("vars", {}),
        **parts,
        "followed": [one.name for one in study.trajectories],
        "file": str(sweeps.path_of(name)),
    }


def _study_text(name: str) -> str:
    found = _describe_study(name)
    size = f"{found['trials']} trials"
    if found["followed"]:
        size = f"{len(found['followed'])} trajectories"
    lines = [f"{name} (study, {size})", "", found["summary"], ""]
    if found["reproduces"]:
        lines.append(f"Reproduces: {found['reproduces']} of {found['paper']}")
    lines += [f"Costs: {found['cost']}"] if found["cost"] else []
    lines += [f"Before: {command}" for command in found["before"]]
    roles = ["datasets", "scenarios", "attacks", "defenses", "classifiers"]
    if found["followed"]:
        lines += ["Trajectories:", *(f"  {line}" for line in _followed(name))]
        roles = ["datasets", "attacks"]
    for role in roles:
        lines += [f"{role.capitalize()}:", *(f"  {label}" for label in found[role])]
    if found["variables"]:
        lines.append("Variables, for --set vars.NAME=VALUE:")
        lines += [f"  {key}: {_as_yaml(value)}" for key, value in found["variables"].items()]
    return "\n".join([*lines, "", f"In {found['file']}"])


def _followed(name: str) -> Iterator[str]:
    for one in read_study(sweeps.path_of(name)).trajectories:
        poison = one.attack.name if one.attack else one.trigger or one.poisons
        steps = ", ".join(map(str, one.steps)) if one.steps else "the usual ones"
        network = one.generator.get("name") or one.generator.get("path") or one.generator["hub"]
        yield (
            f"{one.name}: {network}, {poison or f'random pattern of eps {one.eps_255}'}, "
            f"{one.count} images, steps {steps}"
        )


def describe_component(kind: str, name: str) -> dict[str, Json]:
    """Return all that is known of a component or study, as plain values."""
    if kind in ("study", "studies"):
        return _describe_study(name)
    _check_kind(kind)
    entry = registry_of(kind).get(name)
    check_defaults(registry_of(kind).kind, entry)
    return {
        "name": entry.name,
        "kind": registry_of(kind).kind,
        "summary": entry.summary,
        "doc": entry.doc,
        "paper": entry.paper,
        "module": entry.origin,
        "parameters": [_parameter(p) for p in entry.parameters.values()],
    }


def _parameter(parameter: Parameter, within: Any = None) -> dict[str, Json]:
    """Describe a parameter; ``within`` is the default of what it is a part of."""
    default = getattr(within, parameter.name, parameter.default)
    found: dict[str, Json] = {
        "name": parameter.name,
        "type": type_name(parameter.type),
        "required": default is MISSING,
        "doc": parameter.doc,
    }
    if default is not MISSING:
        found["default"] = plain(default)
    inner = nested(parameter.type)
    if inner is not None and resource_of(parameter.type) is None:
        entry: Entry[Any] = Entry(inner.__name__, inner, "", inner.__module__)
        found["parameters"] = [_parameter(p, default) for p in entry.parameters.values()]
        if presets := getattr(inner, "presets", None):
            found["presets"] = list(presets)
    return found


def type_name(annotation: Any) -> str:
    """Return a type as a study's author thinks of it."""
    resource = resource_of(annotation)
    if resource is not None:
        kind, _ = resource
        noun = "trained classifier" if kind == "classifier" else kind
        if typing.get_origin(annotation) is tuple:
            return f"list of {noun}s"
        optional = annotation is not ImageSet and type(None) in typing.get_args(annotation)
        return f"{noun}{' or null' if optional else ''}"
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        parts = [type_name(part) for part in typing.get_args(annotation)]
        return " | ".join("null" if part == "NoneType" else part for part in parts)
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("pathlib.", "").replace("typing.", "")


def describe_text(kind: str, name: str) -> str:
    """Return the description of a component or study for people."""
    if kind in ("study", "studies"):
        return _study_text(name)
    found = describe_component(kind, name)
    lines = [f"{found['name']} ({found['kind']})", "", _without_attributes(found["doc"]), ""]
    if found["paper"]:
        lines += [f"Source: {found['paper']}", ""]
    lines.append("Parameters:" if found["parameters"] else "No parameters.")
    lines += _parameter_lines(found["parameters"], "  ")
    lines += ["", f"In a study:  {{name: {name}, …}}        Defined in {found['module']}"]
    return "\n".join(lines)


def _without_attributes(doc: str) -> str:
    return doc.partition("\nAttributes:")[0].strip()


def _as_yaml(value: Json) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _parameter_lines(parameters: list[dict[str, Json]], indent: str) -> list[str]:
    lines = []
    for p in parameters:
        inner = p.get("parameters")
        default = "required" if p["required"] else f"default {_as_yaml(p.get('default'))}"
        head = f"{indent}{p['name']}: " + ("" if inner else f"{p['type']}, {default}")
        lines.append(head.rstrip())
        if p["doc"]:
            lines.append(f"{indent}    {p['doc']}")
        if p.get("presets"):
            names = ", ".join(p["presets"])
            lines.append(f"{indent}    All at once by name, {{preset: NAME, …}}: {names}.")
        if inner:
            lines += _parameter_lines(inner, indent + "    ")
    return lines
