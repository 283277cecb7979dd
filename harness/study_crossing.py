"""A study's crossings: components of which each is combined with each, and how they are written."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.params import ComponentSpec, complete, complete_classifier, complete_dataset
from harness.core.protocols import ATTACKS, DEFENSES, SCENARIOS
from harness.core.registry import Registry
from harness.core.spec import Seeds, digest
from harness.core.values import Json, reject_unknown

# What a part of a study can have of its own.
CROSSED = {
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
}


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


def read_crossings(raw: Mapping[str, Json], base: Path) -> tuple[Crossing, ...]:
    """Return the crossings of a study: its ``parts``, or the one that its own keys are.

    Raises:
        UsageError: For anything that cannot be used; names the part.
    """
    return tuple(_crossing(keys, base, where) for keys, where in _parts(raw))


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
            raise UsageError(f"the study needs {key!r}: {CROSSED[key]}.")
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
