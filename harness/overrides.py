"""``--set KEY=VALUE`` and ``${name}``: what is changed in a study before it is checked."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.values import Json
from harness.core.yaml_text import read_yaml

TEXT_KEYS = ("name", "title", "cost", "hub", "revision")  # of which a value is never a path
VARIABLE = re.compile(r"\$\{(\w+)\}")


def set_value(raw: dict[str, Json], text: str) -> str:
    """Set one dotted key in place and return a line that says what changed.

    Mappings that lack are created: what a study does not give has a default that can be changed.
    A key that means nothing is found when the study is checked.

    Raises:
        UsageError: If the key leads nowhere.
    """
    key, equals, given = text.partition("=")
    parts = key.split(".")
    if not equals or not all(parts):
        raise UsageError(f"--set takes KEY=VALUE, for example attacks.0.eps_255=16; got {text!r}.")
    value = _from_here(read_yaml(given, f"the value of --set {key}"), parts[-1])
    node: Any = raw
    for depth, part in enumerate(parts[:-1]):
        here = ".".join(parts[: depth + 1])
        index = _index(node, part, f"--set {key}: {'.'.join(parts[:depth]) or 'the study'}")
        if isinstance(node, dict) and node.get(index) is None:
            node[index] = {}
        elif isinstance(node[index], str) and parts[0] != "vars":
            node[index] = {"name": node[index]}  # the short form of a component
        node = node[index]
        if not isinstance(node, dict | list):
            raise UsageError(f"--set {key}: {here} is {node!r}, which has no parts.")
    last = _index(node, parts[-1], f"--set {key}: {'.'.join(parts[:-1])}")
    old = node.get(last, "(default)") if isinstance(node, dict) else node[last]
    node[last] = value
    return f"{key}: {old} → {value}"


def _index(node: dict[str, Json] | list[Json], part: str, where: str) -> Any:
    if isinstance(node, dict):
        return part
    if not re.fullmatch("[0-9]+", part) or int(part) >= len(node):
        allowed = f"0..{len(node) - 1}" if node else "nothing"
        raise UsageError(f"{where} is a list; it has no item {part!r}. Allowed: {allowed}.")
    return int(part)


def _from_here(value: Json, key: str) -> Json:
    """Return a value with each path in it that exists relative to the current folder as absolute.

    Elsewhere in a study relative paths start from its own folder, which who types a command may
    not be in.
    """
    if isinstance(value, dict):
        return {name: _from_here(part, name) for name, part in value.items()}
    if isinstance(value, list):
        return [_from_here(part, key) for part in value]
    if not isinstance(value, str) or not value or key in TEXT_KEYS:
        return value
    try:
        path = Path(value).expanduser()
        return str(path.resolve()) if path.exists() else value
    except (OSError, ValueError, RuntimeError):  # text that can be no path, or names no user
        return value


def substitute(raw: dict[str, Json]) -> dict[str, Json]:
    """Replace ``${name}`` by the value of ``vars.name``, everywhere.

    Raises:
        UsageError: If a variable is unknown, or is used nowhere: a mistyped ``--set vars.…`` would
            change nothing.
    """
    variables = raw.get("vars") or {}
    if not isinstance(variables, Mapping):
        raise UsageError(f"vars is a mapping from names to values; got {variables!r}.")
    used: set[str] = set()

    def value_of(name: str) -> Json:
        if name not in variables:
            raise UnknownComponent(
                f"${{{name}}} is not in vars.{nearest(name, variables)} "
                f"Allowed: {', '.join(sorted(variables)) or 'none'}."
            )
        used.add(name)
        return variables[name]

    def walk(node: Json) -> Json:
        if isinstance(node, dict):
            return {k: walk(v) for k, v in node.items()}
        if isinstance(node, list):
            return [walk(v) for v in node]
        if not isinstance(node, str):
            return node
        whole = VARIABLE.fullmatch(node)
        return value_of(whole[1]) if whole else VARIABLE.sub(lambda m: str(value_of(m[1])), node)

    replaced = {k: (v if k == "vars" else walk(v)) for k, v in raw.items()}
    for name in variables:
        if name not in used:
            raise UnknownComponent(
                f"vars.{name} is used nowhere.{nearest(name, used)} "
                f"Used: {', '.join(sorted(used)) or 'none'}."
            )
    return replaced
