"""The parameters that a search varies, and the values that each may take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.values import Json

KINDS = {
    "int": "whole numbers from LOW to HIGH",
    "float": "numbers from LOW to HIGH",
    "choice": "one of a list, in no order",
    "grid": "one of a list, in its order",
}
DIGITS = 4  # of a drawn number: what a table shows is what was tried, and can be pasted

Values = dict[str, Json]
"""A configuration: one value per dimension, by its name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One parameter of the defense.

    Attributes:
        name: Dotted: ``steps``, ``parts.1.drop``.
        kind: One of ``KINDS``.
        low, high: Ends of a range, both allowed; of ``int`` and ``float``.
        log: Whether factors count rather than differences.
        values: What a list allows; of ``choice`` and ``grid``.
    """

    name: str
    kind: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    values: tuple[Json, ...] = ()

    @property
    def size(self) -> float:
        """How many values there are; infinite for ``float``."""
        if self.values:
            return len(self.values)
        return self.high - self.low + 1 if self.kind == "int" else math.inf

    @property
    def ends(self) -> tuple[Json, ...]:
        """Every value of a list, the two ends of a range: where a bad value shows first."""
        return self.values or (self.rounded(self.low), self.rounded(self.high))

    def rounded(self, number: float) -> Json:
        """Return a number as this parameter takes it."""
        if self.kind == "int":
            return int(number)
        return float(np.clip(float(f"{number:.{DIGITS}g}"), self.low, self.high))

    def draw(self, rng: np.random.Generator) -> Json:
        """Return a value, all alike likely (those of ``log`` by their logarithm)."""
        if self.values:
            return self.values[int(rng.integers(len(self.values)))]
        if self.kind == "int" and not self.log:
            return int(rng.integers(int(self.low), int(self.high) + 1))
        if not self.log:
            return self.rounded(float(rng.uniform(self.low, self.high)))
        half = 0.5 if self.kind == "int" else 0.0  # so that the ends get their share
        drawn = math.exp(rng.uniform(math.log(self.low - half), math.log(self.high + half)))
        if self.kind == "int":
            return int(np.clip(round(drawn), self.low, self.high))
        return self.rounded(drawn)


def read_space(raw: Json) -> tuple[Dimension, ...]:
    """Check ``search.space``.

    Raises:
        UsageError: For anything that is no space.
    """
    if not isinstance(raw, Mapping) or not raw:
        raise UsageError(
            "search.space maps parameters of the defense to what they may be, for example "
            f"steps: {{int: [10, 300], log: true}}; got {raw!r}."
        )
    return tuple(_dimension(name, given) for name, given in raw.items())


def _dimension(name: str, given: Json) -> Dimension:
    where = f"search.space.{name}"
    if not isinstance(given, Mapping):
        raise UsageError(f"{where} is a mapping with one of {', '.join(KINDS)}; got {given!r}.")
    for key in given:
        if key not in (*KINDS, "log"):
            raise UnknownComponent(
                f"{where} has no {key!r}.{nearest(key, [*KINDS, 'log'])} "
                f"Allowed: {', '.join(KINDS)}, log."
            )
    kinds = [key for key in given if key in KINDS]
    if len(kinds) != 1:
        raise UsageError(f"{where} has one of {', '.join(KINDS)}; got {given!r}.")
    kind, log = kinds[0], given.get("log", False)
    if not isinstance(log, bool) or (log and kind in ("choice", "grid")):
        raise UsageError(f"{where}.log is true or false, for int and float; got {log!r}.")
    if kind in ("choice", "grid"):
        return Dimension(name=name, kind=kind, values=_listed(given[kind], f"{where}.{kind}"))
    low, high = _range(given[kind], f"{where}.{kind}", whole=kind == "int")
    if log and low <= 0:
        raise UsageError(f"{where}: a range with log: true starts above 0; got {low!r}.")
    return Dimension(name=name, kind=kind, low=low, high=high, log=log)


def _listed(value: Json, where: str) -> tuple[Json, ...]:
    if not isinstance(value, list) or not value or _repeats(value):
        raise UsageError(f"{where} is a list of different values; got {value!r}.")
    return tuple(value)


def _repeats(values: Sequence[Json]) -> bool:
    return any(value in values[:i] for i, value in enumerate(values))


def _range(value: Json, where: str, *, whole: bool) -> tuple[float, float]:
    kinds: Any = int if whole else (int, float)
    ok = isinstance(value, list) and len(value) == 2
    ok = ok and all(isinstance(v, kinds) and not isinstance(v, bool) for v in value)
    if not ok or not all(map(math.isfinite, value)) or not value[0] < value[1]:
        what = "whole numbers" if whole else "numbers"
        raise UsageError(f"{where} is [LOW, HIGH], two {what}, the first one lower; got {value!r}.")
    return value[0], value[1]


def size_of(space: Sequence[Dimension]) -> float:
    """Return how many configurations there are."""
    return math.prod(dimension.size for dimension in space)
