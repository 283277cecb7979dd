"""Published results as typed rows, and which of them a trial repeats."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.resources import files
from typing import Any, Literal

from harness.core.errors import DataError, UnknownComponent, nearest
from harness.report.published_settings import ROLES, unlike
from harness.report.statistics import Interval, interval_of_printed, wilson

TARGETED = ("gradient_matching", "bullseye_polytope")

TIMED = "table_5"
"""The table that is of seconds; :mod:`harness.report.published_seconds` reads it."""

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
            95 % interval of its mean, cut at 0 and 1: from the printed standard deviation, or, of
            a targeted attack without a spread, Wilson's of k of n. Without one where nothing of the
            kind is printed, or not how many values the standard deviation is of.
        success_std: The printed standard deviation, of one value; None where none is printed.
        worst: Success on the worst class, or None.
        accuracy, accuracy_std: Natural accuracy, likewise.
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
    success_std: float | None
    worst: float | None
    accuracy: Interval | None
    accuracy_std: float | None
    note: str = ""

    def is_of(self, spec: Mapping[str, Any]) -> bool:
        """Whether a trial's spec has this attack and this defense, in whatever setting."""
        names = (_component(spec, "attack")["name"], _component(spec, "defense")["name"])
        return names == (self.attack.name, self.defense.name)

    def told_differences(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in what of that which this tells a trial's spec differs (see ``is_of``).

        Args:
            spec: A trial's spec as its record holds it.
        """
        given = {role: _component(spec, role) for role in ROLES}
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

    def other_differences(self, spec: Mapping[str, Any]) -> tuple[str, ...]:
        """Return in what else a trial's spec differs from the study that repeats this.

        :mod:`harness.report.published_settings` says what is compared.
        """
        given = {role: _component(spec, role) for role in ROLES}
        return unlike(self.item, self._wanted(), given)

    def differences(self, spec: Mapping[str, Any]) -> tuple[str, ...] | None:
        """Return in what a trial's spec differs from this, or None for another attack or defense.

        First in what this tells, then in what else the study that repeats it sets.
        """
        if not self.is_of(spec):
            return None
        return (*self.told_differences(spec), *self.other_differences(spec))

    def _wanted(self) -> tuple[Wanted, ...]:
        """Return the component of each role, as this tells it."""
        return (
            Wanted(self.dataset), Wanted(self.scenario), self.attack, self.defense, self.classifier
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class _Spread:
    """How many values a printed standard deviation is of (None: not told), and what it divides by.

    The paper uses both kinds. Table 11 has three classes: 87.94 and two that make a mean of 31.02
    have a deviation of 49.3 if it divides by 2, and of no more than 40.3 if it divides by 3.
    Table 13 has three seeds: 0, 0 and 1 of 100 make its 0.33 ± 0.47 if it divides by 3.
    """

    values: int | None
    population: bool = False


_SPREADS = {
    "over three seeds": _Spread(3, population=True),
    "quoted by the paper from AVATAR": _Spread(None),
}
"""By the note of a row; the others are over the trials of the row."""


def items() -> tuple[str, ...]:
    """Return the tables and figures of which there are shares, sorted; :data:`TIMED` has none."""
    found = (entry.name for entry in files("harness.report").joinpath("published").iterdir())
    return tuple(sorted(n[:-4] for n in found if n.endswith(".csv") and n != f"{TIMED}.csv"))


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

    That is one which differs in the fewest things of those that it tells; of several the one whose
    study is most like the trial, and then the first.
    """
    like = [row for row in rows if row.is_of(spec)]
    if not like:
        return None
    told = [row.told_differences(spec) for row in like]
    least = min(map(len, told))
    found = [
        (row, (*differs, *row.other_differences(spec)))
        for row, differs in zip(like, told, strict=True)
        if len(differs) == least
    ]
    return min(found, key=lambda pair: len(pair[1]))


def compare(theirs: Interval | None, ours: Interval | None) -> Verdict:
    """Say whether ours agrees with theirs: whether the 95 % intervals of the two share a value.

    ``unknown`` where one of the two is missing. A bare number may agree with an interval that holds
    it, and two that are equal do; otherwise they are ``unknown``, because how far a bare number
    may be from what it estimates is not told.
    """
    if theirs is None or ours is None:
        return "unknown"
    (low, high), (our_low, our_high) = _ends(theirs), _ends(ours)
    if our_low <= high and low <= our_high:
        return "agrees"
    if theirs.low is None or ours.low is None:
        return "unknown"
    return "lower" if our_high < low else "higher"


def _ends(interval: Interval) -> tuple[float, float]:
    low = interval.value if interval.low is None else interval.low
    high = interval.value if interval.high is None else interval.high
    return low, high


def _row(item: str, raw: Mapping[str, str]) -> PublishedRow:
    trials = int(raw["trials"])
    attack = _wanted(raw, "attack")
    spread = _SPREADS.get(raw["note"], _Spread(trials))
    success_std = _share(raw["success_std"], raw["success_std_in"])
    accuracy_std = _share(raw["accuracy_std"])
    return PublishedRow(
        item=item, scenario=raw["scenario"], dataset=raw["dataset"],
        classifier=_wanted(raw, "classifier"), attack=attack, defense=_wanted(raw, "defense"),
        trials=trials,
        success=_interval(
            _share(raw["success"]), success_std, spread, trials, counted=attack.name in TARGETED,
        ),
        success_std=success_std,
        worst=_share(raw["success_max"]),
        accuracy=_interval(_share(raw["accuracy"]), accuracy_std, spread, trials),
        accuracy_std=accuracy_std,
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
    value: float | None, std: float | None, spread: _Spread, trials: int, *, counted: bool = False
) -> Interval | None:
    if value is None:
        return None
    if std and spread.values is not None:
        found = interval_of_printed(value, std, spread.values, population=spread.population)
        low, high = _ends(found)
        return replace(found, low=max(0.0, low), high=min(1.0, high))
    if not counted:
        return Interval(value, None, None, trials, "none")
    # No spread, or none between seeds: what so many targets can say is left.
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
