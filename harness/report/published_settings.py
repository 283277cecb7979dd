"""The settings of the studies that repeat published results, and in what a trial's differ.

A published table names few parameters; the study that repeats it has them all. They are read from
``published/settings.json``, so that a report needs no component.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from math import isclose
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from harness.report.published import Wanted

ROLES = ("dataset", "scenario", "attack", "defense", "classifier")
TARGET = "*"
"""Stands in the settings for an attack's target: a study has many."""

_PLACES = ("path", "folder", "poisons")
"""Parameters that, as text, say where something is, as ``root`` does; which poisons are meant, the
table itself tells."""

_SPEED = ("defense.batch_size", "defense.memory_mib", "attack.matching.restarts_at_once")
"""Parameters that change the speed alone."""

_MAY_LACK = ("train_per_class", "train_skip_per_class", "test_per_class", "pretrained", "poisons")
"""Keys that a complete spec has only where they are given. Without any other a record is of a time
before that parameter, and nothing can be said of it."""

_READ_INSTEAD = {"trigger": ("trigger", "surrogate", "pood", "search")}
"""What decides nothing where such a file is given in its place."""

Spec = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Setting:
    """One crossing of a study: the components of each role, each of which meets each.

    Attributes:
        components: Specs with every default, by role.
    """

    components: Mapping[str, tuple[Spec, ...]]


@cache
def settings(item: str) -> tuple[Setting, ...]:
    """Return the crossings of the study that repeats a table or figure (``table_1``)."""
    shared, studies = _file()
    return tuple(
        Setting({role: tuple(shared[i] for i in part[role]) for role in ROLES})
        for part in studies[item]
    )


@cache
def _file() -> tuple[list[Spec], dict[str, Any]]:
    """Return the file's mappings, and its studies, which give them by number."""
    text = files("harness.report").joinpath("published", "settings.json").read_text("utf-8")
    raw = json.loads(text)
    found: list[Spec] = []
    for one in raw["mappings"]:  # what one holds stands before it
        found.append({key: _resolved(value, found) for key, value in one.items()})
    return found, raw["studies"]


def _resolved(value: Any, found: Sequence[Spec]) -> Any:
    """Return a value with the mappings in it in full."""
    if isinstance(value, list):
        return [_resolved(one, found) for one in value]
    return found[value["mapping"]] if isinstance(value, dict) else value


@cache
def expected(item: str, wanted: tuple[Wanted, ...]) -> tuple[Setting, ...]:
    """Return what a published row was repeated with.

    Args:
        item: Its table or figure.
        wanted: The component of each of :data:`ROLES`, as the row tells it.
    """
    found = []
    for part in settings(item):
        like = {
            role: tuple(
                one
                for one in part.components[role]
                if one["name"] == told.name and not told.differences(one)
            )
            for role, told in zip(ROLES, wanted, strict=True)
        }
        if all(like.values()):
            found.append(Setting(like))
    return tuple(found)


def unlike(item: str, wanted: tuple[Wanted, ...], given: Mapping[str, Spec]) -> tuple[str, ...]:
    """Return in what a trial differs from what a published row was repeated with.

    Components of another name, and parameters that the row itself tells, are left out: they are
    compared with the row. Of several settings that repeat it, the most similar counts.

    Args:
        item: The row's table or figure.
        wanted: The component of each of :data:`ROLES`, as the row tells it.
        given: The trial's component of each role.
    """
    found = [_unlike_setting(wanted, given, one) for one in expected(item, wanted)]
    fewest: list[str] = min(found, key=len, default=[])
    return tuple(fewest)


def _unlike_setting(
    wanted: tuple[Wanted, ...], given: Mapping[str, Spec], setting: Setting
) -> list[str]:
    found: list[str] = []
    for role, told in zip(ROLES, wanted, strict=True):
        if given[role]["name"] == told.name:
            each = [_unlike(role, told, given[role], one) for one in setting.components[role]]
            fewest: list[str] = min(each, key=len)
            found += fewest
    return found


def _unlike(role: str, told: Wanted, ours: Spec, theirs: Spec) -> list[str]:
    skipped = {f"{role}.{key}" for key, _ in told.params} | set(_SPEED)
    return [
        f"{key} {_said(a)}, full study {_said(b)}"
        for key, a, b in _differing(role, ours, theirs)
        if key not in skipped
    ]


def _differing(where: str, ours: Any, theirs: Any) -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted names of the parameters that differ, and both values."""
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        yield from _in_mapping(where, ours, theirs)
    elif _components(ours) and _components(theirs) and len(ours) == len(theirs):
        for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
            yield from _differing(f"{where}.{index}", one, other)
    elif theirs != TARGET and not _same(ours, theirs):
        yield where, ours, theirs


def _in_mapping(where: str, ours: Spec, theirs: Spec) -> Iterator[tuple[str, Any, Any]]:
    name = theirs.get("name")
    if ours.get("name", name) != name:
        yield f"{where}.name", ours["name"], name
        return
    if "dataset" in theirs and "dataset" not in ours:
        return  # read from a file, where theirs is trained
    skipped = {"name", "seed"}
    for key, instead in _READ_INSTEAD.items():
        skipped.update(instead if ours.get(key) is not None else ())
    for key in dict.fromkeys((*theirs, *ours)):
        if key in skipped or (key not in ours and key not in _MAY_LACK):
            continue
        one, other = ours.get(key), theirs.get(key)
        if key == "root" or (key in _PLACES and isinstance(one, str) and isinstance(other, str)):
            continue
        yield from _differing(f"{where}.{key}", one, other)


def _components(value: Any) -> bool:
    return isinstance(value, Sequence) and bool(value) and all(isinstance(v, dict) for v in value)


def _same(ours: Any, theirs: Any) -> bool:
    if isinstance(ours, float) and isinstance(theirs, int | float):
        return isclose(ours, theirs, rel_tol=1e-9)
    return bool(ours == theirs)


def _said(value: Any) -> str:
    """Return a value in a few words: a component by its name."""
    if isinstance(value, Mapping):
        return str(value.get("name", "given"))
    if _components(value):
        return " + ".join(_said(one) for one in value)
    return "none" if value is None else str(value)
