"""Plain values of a study, checked against the types of a component's parameters."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, PydanticUserError, TypeAdapter, ValidationError

from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.registry import Parameter, parameters_of

Json = Any  # what json.dumps takes


def is_optional(annotation: Any) -> bool:
    """Whether None is allowed."""
    is_union = typing.get_origin(annotation) in (typing.Union, types.UnionType)
    return is_union and type(None) in typing.get_args(annotation)


def is_path(annotation: Any) -> bool:
    """Whether the type is a path, or a path or None."""
    return annotation is Path or (is_optional(annotation) and Path in typing.get_args(annotation))


def nested(annotation: Any) -> type | None:
    """Return the type if it is a dataclass that a study writes as a mapping, else None."""
    is_class = isinstance(annotation, type) and dataclasses.is_dataclass(annotation)
    return annotation if is_class else None


def reject_unknown(allowed: Mapping[str, Any], given: Mapping[str, Any], where: str) -> None:
    """Raise for the first key that is not allowed, naming the nearest one."""
    for name in given:
        if name not in allowed:
            raise UnknownComponent(
                f"{where} has no parameter {name!r}.{nearest(name, allowed)} "
                f"Allowed: {', '.join(sorted(allowed)) or 'none'}."
            )


def plain(value: Any) -> Json:
    """Return a default as the plain value that a study would give."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, tuple | list):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value


def check_value(parameter: Parameter, value: Json, where: str, base: Path | None) -> Json:
    """Check one value and return it in its canonical form.

    Args:
        parameter: What is expected.
        value: What the study gives.
        where: What to call it in messages.
        base: Folder that a relative path starts from.

    Raises:
        UsageError: If the type or the range is another one; says what was given and is allowed.
    """
    kind = nested(parameter.type)
    if kind is not None:
        return _check_nested(kind, parameter.default, value, where, base)
    if is_path(parameter.type):
        return _check_path(parameter.type, value, where, base)
    try:
        adapter = TypeAdapter(parameter.type, config=ConfigDict(allow_inf_nan=False))
        checked = adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        raise UsageError(f"{where}: {_explain(error, value)}") from None
    except (TypeError, ValueError):
        raise UsageError(f"{where}: {value!r} is no plain value.") from None
    except PydanticUserError:  # the author's mistake, not the study's
        raise UsageError(
            f"{where} is of type {parameter.type!r}, which no study can give; plain types, "
            "dataclasses and resources can be given."
        ) from None
    return json.loads(adapter.dump_json(checked))


def _explain(error: ValidationError, value: Json) -> str:
    first = error.errors(include_url=False)[0]
    at = "".join(f"[{part}]" for part in first["loc"] if isinstance(part, int))
    text = str(first["msg"])
    return f"{text[0].lower()}{text[1:]}{' at ' + at if at else ''}; got {value!r}."


def _check_path(annotation: Any, value: Json, where: str, base: Path | None) -> Json:
    if value is None and is_optional(annotation):
        return None
    if not isinstance(value, str) or not value:
        raise UsageError(f"{where} is a path, in quotes if need be; got {value!r}.")
    return str(((base or Path.cwd()) / Path(value).expanduser()).resolve())


def _check_nested(kind: type, default: Any, value: Json, where: str, base: Path | None) -> Json:
    if not isinstance(value, Mapping):
        raise UsageError(f"{where} is given as a mapping; got {value!r}.")
    known = parameters_of(kind)
    presets = getattr(kind, "presets", {})
    reject_unknown({**known, "preset": None} if presets else known, value, where)
    merged = {} if default is dataclasses.MISSING else dict(plain(default))
    if "preset" in value:
        merged = _preset(presets, value["preset"], where)
    for name, given in value.items():
        if name == "preset":
            continue
        merged[name] = check_value(known[name], given, f"{where}.{name}", base)
    lacking = [n for n, p in known.items() if p.required and n not in merged]
    if lacking:
        raise UsageError(f"{where} needs {' and '.join(map(repr, lacking))}.")
    try:
        typed(kind, merged)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None
    return merged


def _preset(presets: Mapping[str, Any], name: Json, where: str) -> dict[str, Json]:
    """Return the plain values behind a name, so that a spec's hash holds those and no name."""
    if not isinstance(name, str) or name not in presets:
        raise UnknownComponent(
            f"{where} has no preset {name!r}.{nearest(str(name), presets)} "
            f"Allowed: {', '.join(presets)}."
        )
    return dict(plain(presets[name]))


def typed(annotation: Any, value: Json) -> Any:
    """Return a checked value as its Python type."""
    if value is None:
        return None
    kind = nested(annotation)
    if kind is not None:
        known = parameters_of(kind)
        return kind(**{name: typed(known[name].type, given) for name, given in value.items()})
    if is_path(annotation):
        return Path(value)
    return TypeAdapter(annotation).validate_json(json.dumps(value), strict=True)
