"""The ``search:`` section of a study file, checked."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.params import ComponentSpec, complete
from harness.core.protocols import ATTACKS, DEFENSES
from harness.core.values import Json
from harness.search.objective import Objective, read_objective
from harness.search.space import Dimension, Values, read_space, size_of

KEYS = {
    "defense": "which of 'defenses' is varied, counted from 0 (default 0)",
    "space": "its parameters, and what each may be",
    "configurations": "how many are tried (default 20; algorithm grid: all)",
    "algorithm": "random (default), optuna or grid",
    "objective": "what is best: minimise, maximise, keep",
    "early_stop": "none (default), or halving: most configurations get only the first trials",
    "at_once": "configurations proposed together, from what is known by then (default 4)",
    "seed": "of what is drawn (default 0)",
    "report": "targets and seeds to report the chosen one on, none of those it is chosen by",
}
ALGORITHMS = ("random", "optuna", "grid")
EARLY_STOPS = ("none", "halving")


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is searched, and how.

    Attributes:
        template: The defense as the study gives it; a configuration wins over it.
        index: Its place among the study's defenses.
        base: Folder that relative paths start from.
        space: What is varied.
        configurations: How many are tried.
        algorithm: One of ``ALGORITHMS``.
        objective: What is best.
        halving: Whether configurations that are worse on their first trials get no more.
        at_once: Configurations proposed together. It is part of the search and does not depend on
            the machine, so that the same search tries the same everywhere.
        seed: Of what is drawn.
        report: ``targets`` and ``seeds`` to report on; empty for none.
    """

    template: dict[str, Json]
    index: int
    base: Path
    space: tuple[Dimension, ...]
    configurations: int
    algorithm: str
    objective: Objective
    halving: bool
    at_once: int
    seed: int
    report: dict[str, Json]

    def given(self, values: Values) -> dict[str, Json]:
        """Return the defense with some values, as a study file gives it."""
        raw = deepcopy(self.template)
        for name, value in values.items():
            _put(raw, name, value)
        return raw

    def spec(self, values: Values) -> ComponentSpec:
        """Return the defense with some values.

        Raises:
            UsageError: If it cannot take them.
        """
        where = f"search.space for defenses[{self.index}]"
        return complete(DEFENSES, self.given(values), where, self.base)


def _put(raw: Any, name: str, value: Json) -> None:
    """Set a parameter under its dotted name; a number in it is a place in a list."""
    *way, last = name.split(".")
    node = raw
    for part in way:
        node = node.setdefault(part, {}) if isinstance(node, dict) else _item(node, part, name)
    if isinstance(node, dict):
        node[last] = value
    else:
        _item(node, last, name)
        node[int(last)] = value


def _item(node: Any, part: str, name: str) -> Any:
    if not isinstance(node, list) or not part.isdecimal() or int(part) >= len(node):
        raise UsageError(f"search.space.{name} leads nowhere: {node!r} has no part {part!r}.")
    return node[int(part)]


def read_search(raw: Mapping[str, Json], base: Path) -> Search | None:
    """Check the section of a study, given as plain values; None where it has none.

    Raises:
        UsageError: For anything that cannot be used.
    """
    given = raw.get("search")
    if given is None:
        return None
    if not isinstance(given, Mapping):
        raise UsageError(f"search is a mapping; got {given!r}.")
    for key in given:
        if key not in KEYS:
            raise UnknownComponent(
                f"search has no {key!r}.{nearest(key, KEYS)} Allowed: {', '.join(KEYS)}."
            )
    if raw.get("parts") is not None:
        raise UsageError("search takes a study that is one crossing, without 'parts'.")
    for key in ("space", "objective"):
        if key not in given:
            raise UsageError(f"search needs {key!r}: {KEYS[key]}.")
    space = read_space(given["space"])
    algorithm = _one_of(given.get("algorithm", "random"), ALGORITHMS, "search.algorithm")
    template, index = _template(raw, given.get("defense", 0))
    search = Search(
        template=template,
        index=index,
        base=base,
        space=space,
        configurations=_how_many(given, space, algorithm),
        algorithm=algorithm,
        objective=read_objective(given["objective"]),
        halving=_early_stop(given.get("early_stop", "none")),
        at_once=_whole(given.get("at_once", 4), 1, "search.at_once"),
        seed=_whole(given.get("seed", 0), 0, "search.seed"),
        report=_report(given.get("report", {})),
    )
    _check(search, raw)
    return search


def _template(raw: Mapping[str, Json], index: Json) -> tuple[dict[str, Json], int]:
    defenses = raw.get("defenses") or []
    defenses = defenses if isinstance(defenses, list) else [defenses]
    if type(index) is not int or not 0 <= index < len(defenses):
        raise UsageError(
            f"search.defense is the place of one of the {len(defenses)} defenses, from 0 on; "
            f"got {index!r}."
        )
    found = defenses[index]
    found = {"name": found} if isinstance(found, str) else found
    if not isinstance(found, dict) or "grid" in found:
        raise UsageError(
            f"search.defense: defenses[{index}] is one defense, without a grid; got {found!r}."
        )
    return found, index


def _how_many(given: Mapping[str, Json], space: tuple[Dimension, ...], algorithm: str) -> int:
    if algorithm != "grid":
        return _whole(given.get("configurations", 20), 1, "search.configurations")
    ranges = [d.name for d in space if not d.values]
    if ranges:
        raise UsageError(
            f"search.algorithm grid needs a list for each parameter (choice or grid); "
            f"{', '.join(ranges)} {'is a range' if len(ranges) == 1 else 'are ranges'}."
        )
    if "configurations" in given:
        raise UsageError(
            f"search.algorithm grid tries all {size_of(space):g} configurations; "
            "leave 'configurations' out, or take random."
        )
    return int(size_of(space))


def _early_stop(value: Json) -> bool:
    if value == "asha":
        raise UsageError(
            "search.early_stop: asha would end a training by its test curve, which is what the "
            "search selects by; halving drops configurations after their first whole trials."
        )
    return _one_of(value, EARLY_STOPS, "search.early_stop") == "halving"


def _report(value: Json) -> dict[str, Json]:
    if not isinstance(value, Mapping) or set(value) - {"targets", "seeds"}:
        raise UsageError(f"search.report takes targets and seeds; got {value!r}.")
    return dict(value)


def _one_of(value: Json, allowed: tuple[str, ...], where: str) -> str:
    if value not in allowed:
        raise UnknownComponent(
            f"{where} is {value!r}.{nearest(str(value), allowed)} Allowed: {', '.join(allowed)}."
        )
    return str(value)


def _whole(value: Json, least: int, where: str) -> int:
    if type(value) is not int or value < least:
        raise UsageError(f"{where} is a whole number from {least} on; got {value!r}.")
    return value


def _check(search: Search, raw: Mapping[str, Json]) -> None:
    """Check what the parts of a section say of each other and of the study."""
    first = {d.name: d.ends[0] for d in search.space}
    for dimension in search.space:
        for value in dimension.ends:
            search.spec({**first, dimension.name: value})
    if search.halving and len(search.objective.aims) > 1:
        raise UsageError(
            "search.early_stop halving ranks by one number; give one of the objectives as keep."
        )
    goals = _goals(raw)
    if not goals:
        raise UsageError("search judges a defense by attacks; the study has none.")
    for metric in search.objective.metrics:
        for name, goal in goals.items():
            unfit = metric == "poison_success" and goal == "availability"
            if unfit or (metric == "attacked_class_accuracy" and goal != "triggered"):
                raise UsageError(
                    f"search.objective: attack {name!r} ({goal}) has no {metric}; "
                    "natural_accuracy is measured of every attack."
                )


def _goals(raw: Mapping[str, Json]) -> dict[str, Any]:
    attacks = raw.get("attacks") or []
    attacks = attacks if isinstance(attacks, list) else [attacks]
    names = [a["name"] if isinstance(a, Mapping) and "name" in a else a for a in attacks]
    return {n: ATTACKS.get(n).factory.goal for n in names if isinstance(n, str) and n != "none"}
