"""Which numeric parameters a study varies: read from the specs of its trials."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

T = TypeVar("T")

Flat = dict[str, Any]
"""Parameters under dotted names: ``ebm.recipe.iterations``, ``parts[0].steps``."""


@dataclass(frozen=True)
class Family(Generic[T]):
    """Members that differ in one or two numbers alone.

    Attributes:
        name: Of the component.
        keys: Names of the varied parameters, as short as they are clear; where another rises and
            falls with one, it is named too: ``network_calls, with it steps``.
        fixed: ``repeats=2``: what tells this family from its neighbours, or "".
        members: By the values of the varied parameters, ascending.
    """

    name: str
    keys: tuple[str, ...]
    fixed: str
    members: dict[tuple[float, ...], T]


@dataclass(frozen=True)
class _Group(Generic[T]):
    """Members alike but for numbers.

    ``keys`` are the dotted names of those that vary, ``along`` those that vary with one of them.
    """

    items: Sequence[tuple[Flat, T]]
    keys: tuple[str, ...]
    along: Mapping[str, Sequence[str]]
    fixed: str = ""


def flat(component: Any, prefix: str = "") -> Flat:
    """Return the leaves of a component's parameters.

    >>> flat({"name": "a", "parts": [{"name": "b", "steps": 5}]})
    {'name': 'a', 'parts[0].name': 'b', 'parts[0].steps': 5}
    """
    found: Flat = {}
    if isinstance(component, Mapping):
        for key, value in component.items():
            found |= flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(component, list) and any(isinstance(part, Mapping) for part in component):
        for index, value in enumerate(component):
            found |= flat(value, f"{prefix}[{index}]")
    else:
        found[prefix] = component if _is_leaf(component) else json.dumps(component)
    return found


def shared(components: Sequence[Any]) -> Flat:
    """Return the leaves in which all components agree: what an attack has beside its target."""
    first, *rest = map(flat, components)
    return {k: v for k, v in first.items() if all(other.get(k, _ABSENT) == v for other in rest)}


def grids(items: Sequence[tuple[Flat, T]]) -> list[Family[T]]:
    """Return the families in which one or two numbers vary.

    Where more do, the two with the most values make a family for each value of the others.
    Numbers that rise and fall together count as one.
    """
    found = []
    for group in _groups(items):
        chosen = sorted(group.keys, key=lambda k: -len(_values(group.items, k)))[:2]
        axes = [k for k in group.keys if k in chosen]
        others = [k for k in group.keys if k not in chosen]
        for part in _split(group, others):
            found += _families(part, _varying(part.items, axes))
    return found


def lines(items: Sequence[tuple[Flat, T]]) -> list[Family[T]]:
    """Return the families in which one number varies and all others stand still."""
    found = []
    for group in _groups(items):
        for key in group.keys:
            for part in _split(group, [k for k in group.keys if k != key]):
                found += _families(part, _varying(part.items, [key]))
    return found


_ABSENT = object()


def _is_leaf(value: Any) -> bool:
    return value is None or isinstance(value, (str, int, float))


def _is_dose(key: str, value: Any) -> bool:
    """Whether this is a number that can be varied; another seed is no more or less of anything."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and _end(key) != "seed"


def _groups(items: Sequence[tuple[Flat, T]]) -> Iterator[_Group[T]]:
    """Part the items by all that is no number; leave out where no number varies."""
    parts: dict[str, list[tuple[Flat, T]]] = {}
    for item in items:
        rest = {k: None if _is_dose(k, v) else [v] for k, v in item[0].items()}
        parts.setdefault(json.dumps(rest, sort_keys=True), []).append(item)
    for part in parts.values():
        along: dict[str, list[str]] = {}
        for key in _varying(part, [k for k, v in part[0][0].items() if _is_dose(k, v)]):
            leader = next((other for other in along if _together(part, key, other)), None)
            if leader is None:
                along[key] = []
            else:
                along[leader].append(key)
        if along:
            yield _Group(part, tuple(along), along)


def _values(items: Sequence[tuple[Flat, T]], key: str) -> set[Any]:
    return {own[key] for own, _ in items}


def _varying(items: Sequence[tuple[Flat, T]], keys: Sequence[str]) -> list[str]:
    return [key for key in keys if len(_values(items, key)) > 1]


def _together(items: Sequence[tuple[Flat, T]], key: str, other: str) -> bool:
    """Whether each value of one number goes with one value of the other."""
    pairs = {(own[key], own[other]) for own, _ in items}
    return len(pairs) == len(_values(items, key)) == len(_values(items, other))


def _split(group: _Group[T], others: Sequence[str]) -> Iterator[_Group[T]]:
    """Part a group by the values of some of its numbers."""
    parts: dict[tuple[Any, ...], list[tuple[Flat, T]]] = {}
    for item in group.items:
        parts.setdefault(tuple(item[0][k] for k in others), []).append(item)
    names = _short(group.items[0][0], others)
    for values in sorted(parts):
        fixed = ", ".join(f"{n}={v:g}" for n, v in zip(names, values, strict=True))
        yield _Group(parts[values], group.keys, group.along, fixed)


def _families(group: _Group[T], axes: Sequence[str]) -> list[Family[T]]:
    if not axes:
        return []
    own = group.items[0][0]
    members = {tuple(float(f[k]) for k in axes): member for f, member in group.items}
    names = tuple(
        ", with it ".join((name, *_short(own, _varying(group.items, group.along[key]))))
        for name, key in zip(_short(own, axes), axes, strict=True)
    )
    return [Family(str(own.get("name", "")), names, group.fixed, dict(sorted(members.items())))]


def _short(own: Flat, keys: Sequence[str]) -> tuple[str, ...]:
    """Return the last part of each dotted name where no other parameter ends in it."""
    ends = Counter(map(_end, own))
    return tuple(_end(k) if ends[_end(k)] == 1 else k for k in keys)


def _end(key: str) -> str:
    return key.rpartition(".")[2]
