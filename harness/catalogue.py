"""What there is: components and studies, for people and for programs."""

from __future__ import annotations

import json
import typing
from typing import Any

from rich.table import Table

from harness import sweeps
from harness.core.data import ImageSet
from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.params import resource_of
from harness.core.protocols import REGISTRIES
from harness.core.registry import Entry, Parameter, Registry
from harness.core.values import Json, nested, plain
from harness.core.yaml_text import read_yaml

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
        return [{"name": name, "summary": _title(name)} for name in sweeps.names()]
    if kind not in PLURALS and kind not in REGISTRIES:
        allowed = sorted([*PLURALS, "studies"])
        raise UnknownComponent(
            f"unknown kind {kind!r}.{nearest(kind, allowed)} Allowed: {', '.join(allowed)}."
        )
    return [_item(registry_of(kind), name) for name in registry_of(kind).names()]


def _item(registry: Registry[Any], name: str) -> dict[str, Json]:
    try:
        entry = registry.get(name)
    except UsageError as error:  # one broken file does not hide the others
        return {"name": name, "summary": f"({error})", "paper": "", "module": ""}
    return {
        "name": name, "summary": entry.summary, "paper": entry.paper, "module": entry.origin,
    }  # fmt: skip


def _title(name: str) -> str:
    path = sweeps.path_of(name)
    return str(read_yaml(path.read_text(encoding="utf-8"), f"study {str(path)!r}").get("title", ""))


def list_table(kind: str) -> Table:
    """Return the components of a kind as a table."""
    table = Table(box=None, pad_edge=False)
    table.add_column("name", style="bold", no_wrap=True)
    table.add_column("what it is")
    for item in list_kind(kind):
        table.add_row(item["name"], item["summary"])
    return table


def describe_component(kind: str, name: str) -> dict[str, Json]:
    """Return all that is known of a component, as plain values."""
    entry = registry_of(kind).get(name)
    return {
        "name": entry.name,
        "kind": registry_of(kind).kind,
        "summary": entry.summary,
        "doc": entry.doc,
        "paper": entry.paper,
        "module": entry.origin,
        "parameters": [_parameter(p) for p in entry.parameters.values()],
    }


def _parameter(parameter: Parameter) -> dict[str, Json]:
    found: dict[str, Json] = {
        "name": parameter.name,
        "type": type_name(parameter.type),
        "required": parameter.required,
        "doc": parameter.doc,
    }
    if not parameter.required:
        found["default"] = plain(parameter.default)
    inner = nested(parameter.type)
    if inner is not None and resource_of(parameter.type) is None:
        entry: Entry[Any] = Entry(inner.__name__, inner, "", inner.__module__)
        found["parameters"] = [_parameter(p) for p in entry.parameters.values()]
    return found


def type_name(annotation: Any) -> str:
    """Return a type as a study's author thinks of it."""
    resource = resource_of(annotation)
    if resource is not None:
        kind, _ = resource
        noun = {"dataset": "dataset", "classifier": "trained classifier"}.get(kind, "generator")
        optional = annotation is not ImageSet and type(None) in typing.get_args(annotation)
        return f"{noun}{' or null' if optional else ''}"
    if typing.get_origin(annotation) is typing.Literal:
        return " | ".join(map(str, typing.get_args(annotation)))
    if isinstance(annotation, type) and not typing.get_args(annotation):
        return annotation.__name__
    return str(annotation).replace("pathlib.", "").replace("typing.", "")


def describe_text(kind: str, name: str) -> str:
    """Return the description of a component for people."""
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
        if inner:
            lines += _parameter_lines(inner, indent + "    ")
    return lines
