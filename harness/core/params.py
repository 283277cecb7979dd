"""From a study's plain values to the typed parameters of a component, and to its identity.

A parameter whose type is a *resource* (an image set, a trained classifier, a generator) is written
in a study as a reference and is loaded, trained or taken from the store only where it is needed.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from harness.core.data import ImageSet
from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.registry import Entry, Parameter, Registry

Json = Any  # what json.dumps takes


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """A component by name, with every parameter as a plain value, defaults filled in."""

    name: str
    params: dict[str, Json] = field(default_factory=dict)

    def to_json(self) -> dict[str, Json]:
        """Return the flat form that a study file has too."""
        return {"name": self.name, **self.params}

    @classmethod
    def from_json(cls, raw: Mapping[str, Json]) -> ComponentSpec:
        """Read the flat form back."""
        return cls(raw["name"], {k: v for k, v in raw.items() if k != "name"})


def is_resource(annotation: Any) -> bool:
    """Whether a parameter of this type is given as a reference."""
    return resource_type(annotation) is not None


def resource_type(annotation: Any) -> type | None:
    """Return the resource type in an annotation (also in ``X | None``), or None."""
    options = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    for option in options:
        if isinstance(option, type) and (option is ImageSet or hasattr(option, "resource_kind")):
            return option
    return None


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _optional(annotation: Any) -> bool:
    return _is_union(annotation) and type(None) in typing.get_args(annotation)


def check_value(parameter: Parameter, value: Json, where: str, base: Path | None) -> Json:
    """Check one plain value against a parameter's type and return it in its canonical form.

    Raises:
        UsageError: If the type or the range is another one; says what was given and is allowed.
    """
    annotation, default = parameter.type, parameter.default
    if is_resource(annotation):
        if value is None and _optional(annotation):
            return None
        if not isinstance(value, Mapping):
            raise UsageError(f"{where} is given as a mapping ({{name: …}}); got {value!r}.")
        return dict(value)
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        return _check_nested(annotation, default, value, where)
    if annotation is Path or (_optional(annotation) and Path in typing.get_args(annotation)):
        if value is None and _optional(annotation):
            return None
        if not isinstance(value, str):
            raise UsageError(f"{where} is a path, in quotes if need be; got {value!r}.")
        return str(((base or Path.cwd()) / Path(value).expanduser()).resolve())
    try:
        adapter = TypeAdapter(annotation, config=ConfigDict(allow_inf_nan=False))
        typed = adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UsageError(f"{where}: {_explain(error, value)}") from None
    except (TypeError, ValueError):
        raise UsageError(f"{where}: {value!r} is no plain value.") from None
    return json.loads(adapter.dump_json(typed))


def _explain(error: ValidationError, value: Json) -> str:
    first = error.errors(include_url=False)[0]
    at = "".join(f"[{part}]" for part in first["loc"] if not isinstance(part, str))
    text = str(first["msg"])
    return f"{text[0].lower()}{text[1:]}{' at ' + at if at else ''}; got {value!r}."


def _check_nested(kind: type, default: Any, value: Json, where: str) -> Json:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is given as a mapping; got {value!r}.")
    entry: Entry[Any] = Entry(kind.__name__.lower(), kind, "", kind.__module__)
    merged = {} if default is dataclasses.MISSING else dict(_plain(default))
    _reject_unknown(entry.parameters, value, where)
    for name, given in value.items():
        merged[name] = check_value(entry.parameters[name], given, f"{where}.{name}", None)
    try:
        kind(**_typed_values(entry, merged))
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return merged


def _reject_unknown(allowed: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    for name in given:
        if name not in allowed:
            raise UnknownComponent(
                f"{where} has no parameter {name!r}.{nearest(name, allowed)} "
                f"Allowed: {', '.join(sorted(allowed)) or 'none'}."
            )


def _plain(value: Any) -> Json:
    """Return a default as the plain value that a study would give."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [_plain(v) for v in value]
    if isinstance(value, Path):
        return str(value)
    return value


def complete(
    registry: Registry[Any], raw: Json, where: str, base: Path | None = None
) -> ComponentSpec:
    """Check a component as a study gives it and fill in its defaults.

    Args:
        registry: Where its name is looked up.
        raw: A name, or a mapping with ``name`` and parameters.
        where: What to call it in messages, for example ``attacks[0]``.
        base: Folder that relative paths start from.

    Raises:
        UsageError: If the name or a parameter is unknown, missing or of another type.
    """
    if isinstance(raw, str):
        raw = {"name": raw}
    if not isinstance(raw, Mapping) or not isinstance(raw.get("name"), str):
        raise UsageError(f"{where} is a name, or a mapping with a name; got {raw!r}.")
    try:
        entry = registry.get(raw["name"])
    except UnknownComponent as error:
        raise UnknownComponent(f"{where}: {error}") from None
    label = f"{where} ({entry.name})"
    given = {k: v for k, v in raw.items() if k != "name"}
    _reject_unknown(entry.parameters, given, label)
    params: dict[str, Json] = {}
    for name, parameter in entry.parameters.items():
        if name in given:
            params[name] = check_value(parameter, given[name], f"{label}.{name}", base)
        elif not parameter.required:
            params[name] = _plain(parameter.default)
    return ComponentSpec(entry.name, params)


def missing(entry: Entry[Any], spec: ComponentSpec) -> list[str]:
    """Return the names of required parameters that the spec lacks."""
    return [n for n, p in entry.parameters.items() if p.required and n not in spec.params]


def _typed(annotation: Any, value: Json) -> Any:
    if value is None:
        return None
    if dataclasses.is_dataclass(annotation) and isinstance(annotation, type):
        entry: Entry[Any] = Entry(annotation.__name__, annotation, "", annotation.__module__)
        return annotation(**_typed_values(entry, value))
    if annotation is Path or (_optional(annotation) and Path in typing.get_args(annotation)):
        return Path(value)
    return TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)


def _typed_values(entry: Entry[Any], params: Mapping[str, Json]) -> dict[str, Any]:
    return {
        name: value if is_resource(entry.parameters[name].type)
        else _typed(entry.parameters[name].type, value)
        for name, value in params.items()
    }  # fmt: skip


def construct(
    registry: Registry[Any],
    spec: ComponentSpec,
    resources: Mapping[str, Any],
    where: str = "",
) -> Any:
    """Build a component from its checked spec and its loaded resources.

    Args:
        registry: Where its class is.
        spec: Checked parameters.
        resources: Loaded value by parameter name, for each parameter that is a reference.
        where: What to call it in messages.

    Raises:
        UsageError: If a required parameter is missing or the class refuses a value.
    """
    entry = registry.get(spec.name)
    absent = missing(entry, spec)
    label = where or f"{registry.kind} {spec.name!r}"
    if absent:
        raise UsageError(f"{label} needs {' and '.join(repr(a) for a in absent)}.")
    values = _typed_values(entry, spec.params) | dict(resources)
    try:
        return entry.factory(**values)
    except UsageError as error:
        raise UsageError(f"{label}: {error}") from None
