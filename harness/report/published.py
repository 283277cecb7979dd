"""Published results as typed rows, and which of them a trial repeats."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any, Literal

from harness.core.errors import DataError, UnknownComponent, nearest
from harness.report.statistics import Interval, wilson

TARGETED = ("gradient_matching", "bullseye_polytope")

Verdict = Literal["agrees", "lower", "higher", "unknown"]


@dataclass(frozen=True, slots=True)
class Wanted:
    """A component as a published table tells it: its name, and some of its parameters.

    Attributes:
        name: Its registered name.
        params: Values by dotted parameter (``recipe.epochs``), as text; ``*`` stands for any text.
    """

    name: str
    params: tuple[tuple[str, str], ...] = ()

    def differences(self, given: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in which of these parameters a component of a trial's spec differs.

        >>> Wanted("jpeg", (("quality", "25"),)).differences({"name": "jpeg", "quality": 75})
        ('quality 75, published 25',)
        """
        found = []
        for key, text in self.params:
            value = _at(given, key)
            if not _same(value, text):
                there = "none" if value is None else value
                found.append(f"{key} {there}, published {text}")
        return tuple(found)


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """What a paper reports of one defense against one attack. Shares are in [0, 1].

    Attributes:
        item: File that it is in: ``table_1``.
        scenario, dataset: Registered names.
        classifier, attack, defense: What was used.
        trials: Victims that were trained.
        success: Poison success; None for availability attacks and where none is printed. With the
            printed mean plus and minus one standard deviation, cut at 0 and 1; of a targeted
            attack without one, k of n with its Wilson interval.
        worst: Success on the worst class, or None.
        accuracy: Natural accuracy, likewise.
        note: What else is to be known of it.
    """

    item: str
    scenario: str
    dataset: str
    classifier: Wanted
    attack: Wanted
    defense: Wanted
    trials: int
    success: Interval | None
    worst: float | None
    accuracy: Interval | None
    note: str = ""

    def differences(self, spec: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return in what a trial's spec differs from this, or None for another attack or defense.

        Args:
            spec: A trial's spec as its record holds it.
        """
        given = {role: _component(spec, role) for role in _ROLES}
        if (given["attack"]["name"], given["defense"]["name"]) != (
            self.attack.name, self.defense.name,
        ):  # fmt: skip
            return None
        found = []
        settings = {
            "scenario": self.scenario, "dataset": self.dataset, "classifier": self.classifier.name
        }  # fmt: skip
        for role, name in settings.items():
            if given[role]["name"] != name:
                found.append(f"{role} {given[role]['name']}, published {name}")
        for role, wanted in (("attack", self.attack), ("defense", self.defense)):
            found += wanted.differences(given[role])
        if given["classifier"]["name"] == self.classifier.name:
            found += self.classifier.differences(given["classifier"])
        return tuple(found)


_ROLES = ("dataset", "scenario", "attack", "defense", "classifier")


def items() -> tuple[str, ...]:
    """Return the tables and figures of which there are results, sorted."""
    found = (entry.name for entry in files("harness.report").joinpath("published").iterdir())
    return tuple(sorted(n[:-4] for n in found if n.endswith(".csv") and n != "table_5.csv"))


def published(item: str) -> tuple[PublishedRow, ...]:
    """Read the results of one table or figure.

    Args:
        item: ``table_1``, with or without ``.csv``.

    Raises:
        UnknownComponent: If there are none.
    """
    name = item.removesuffix(".csv")
    if name not in items():
        raise UnknownComponent(
            f"no published results {item!r}.{nearest(name, items())} Allowed: {', '.join(items())}."
        )
    text = files("harness.report").joinpath("published", f"{name}.csv").read_text("utf-8")
    return tuple(_row(name, raw) for raw in csv.DictReader(text.splitlines()))


def closest(
    rows: tuple[PublishedRow, ...], spec: Mapping[str, Any]
) -> tuple[PublishedRow, tuple[str, ...]] | None:
    """Return the row that a trial repeats best, and in what it differs; None if none is like it.

    Of rows that differ in as many things the first is taken.
    """
    found = [(row, d) for row in rows if (d := row.differences(spec)) is not None]
    return min(found, key=lambda pair: len(pair[1])) if found else None


def compare(theirs: Interval | None, ours: Interval | None) -> Verdict:
    """Say whether ours agrees with theirs: whether the two intervals share a value.

    ``unknown`` where one of the two is missing, or where neither has an interval and they differ:
    two bare numbers do not say whether they do.
    """
    if theirs is None or ours is None:
        return "unknown"
    if theirs.low is None and ours.low is None and theirs.value != ours.value:
        return "unknown"
    (low, high), (our_low, our_high) = _ends(theirs), _ends(ours)
    if our_high < low:
        return "lower"
    return "higher" if our_low > high else "agrees"


def _ends(interval: Interval) -> tuple[float, float]:
    low = interval.value if interval.low is None else interval.low
    high = interval.value if interval.high is None else interval.high
    return low, high


def _row(item: str, raw: Mapping[str, str]) -> PublishedRow:
    trials = int(raw["trials"])
    attack = _wanted(raw, "attack")
    return PublishedRow(
        item=item, scenario=raw["scenario"], dataset=raw["dataset"],
        classifier=_wanted(raw, "classifier"), attack=attack, defense=_wanted(raw, "defense"),
        trials=trials,
        success=_interval(
            _share(raw["success"]), _share(raw["success_std"], raw["success_std_in"]), trials,
            counted=attack.name in TARGETED,
        ),
        worst=_share(raw["success_max"]),
        accuracy=_interval(_share(raw["accuracy"]), _share(raw["accuracy_std"]), trials),
        note=raw["note"],
    )  # fmt: skip


def _wanted(raw: Mapping[str, str], role: str) -> Wanted:
    pairs = (text.partition("=") for text in raw[f"{role}_with"].split())
    return Wanted(raw[role], tuple((key, value) for key, _, value in pairs))


def _share(text: str, unit: str = "percent") -> float | None:
    if not text:
        return None
    return float(text) if unit == "share" else float(text) / 100


def _interval(
    value: float | None, std: float | None, trials: int, *, counted: bool = False
) -> Interval | None:
    if value is None:
        return None
    if std is not None:
        return Interval(value, max(0.0, value - std), min(1.0, value + std), trials, "std")
    if not counted:
        return Interval(value, None, None, trials, "none")
    known = wilson(round(value * trials), trials)
    # The printed number stands, though some are no share of these trials.
    low, high = _ends(known)
    return Interval(value, min(low, value), max(high, value), trials, "wilson")


def _component(spec: Mapping[str, Any], role: str) -> Mapping[str, Any]:
    found = spec.get(role)
    if isinstance(found, Mapping) and isinstance(found.get("name"), str):
        return found
    raise DataError(f"a trial's spec names no {role}.")


def _at(given: Mapping[str, Any], key: str) -> Any:
    """Return a parameter under a dotted name, or None."""
    value: Any = given
    for part in key.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


def _same(value: Any, text: str) -> bool:
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return abs(float(text) - value) <= 1e-9 * max(1.0, abs(value))
        except ValueError:
            return False
    return value is not None and fnmatchcase(str(value), text)
