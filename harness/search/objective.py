"""What a search aims at, and which of two configurations is better."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from harness.core.errors import UnknownComponent, UsageError, nearest
from harness.core.values import Json

METRICS = {
    "poison_success": "share of successes on an attack's first probe",
    "natural_accuracy": "accuracy on clean test images, of the victims that were attacked",
    "attacked_class_accuracy": "the same on the attacked class alone",
}
_BOUND = re.compile(r"undefended(?:\s*([+-])\s*(\d*\.?\d+))?")

Means = Mapping[str, float]
"""Mean over a configuration's trials, by metric."""


@dataclass(frozen=True, slots=True)
class Keep:
    """A bound that a configuration has to keep.

    Attributes:
        metric: One of ``METRICS``.
        at_least: Whether it is a lower bound.
        bound: A share; with ``relative``, what is added to that without a defense.
        relative: Whether ``bound`` starts from the undefended trials of the same targets and seeds.
    """

    metric: str
    at_least: bool
    bound: float
    relative: bool

    def violation(self, value: float, undefended: float) -> float:
        """Return by how much the bound is missed; 0 or less where it is kept."""
        bound = self.bound + (undefended if self.relative else 0.0)
        return bound - value if self.at_least else value - bound

    def __str__(self) -> str:
        bound = f"{self.bound:g}"
        if self.relative:
            sign = "-" if self.bound < 0 else "+"
            bound = f"undefended {sign} {abs(self.bound):g}" if self.bound else "undefended"
        return f"{self.metric} {'at least' if self.at_least else 'at most'} {bound}"


@dataclass(frozen=True, slots=True)
class Objective:
    """What is best.

    Attributes:
        aims: Metric and sign: 1 to make it small, -1 to make it large. One, or two for a front.
        keeps: Bounds; who misses one is worse than anyone who keeps all.
    """

    aims: tuple[tuple[str, int], ...]
    keeps: tuple[Keep, ...] = ()

    @property
    def metrics(self) -> tuple[str, ...]:
        """Every metric that it looks at."""
        names = [name for name, _ in self.aims] + [keep.metric for keep in self.keeps]
        return tuple(dict.fromkeys(names))

    @property
    def pair(self) -> tuple[tuple[str, int], ...]:
        """Metric and sign of the two numbers of the front: of two aims, or of one and its price."""
        if len(self.aims) == 2:
            return self.aims
        [(aim, sign)] = self.aims
        others = [keep.metric for keep in self.keeps] + ["natural_accuracy"]
        beside = next((name for name in others if name != aim), aim)
        return (aim, sign), (beside, 1 if beside == "poison_success" else -1)

    @property
    def shown(self) -> tuple[str, ...]:
        """Every metric of a table: those it looks at, and accuracy."""
        return tuple(dict.fromkeys((*self.metrics, "natural_accuracy")))

    @property
    def relative(self) -> bool:
        """Whether it needs trials without a defense."""
        return any(keep.relative for keep in self.keeps)

    def numbers(self, measured: Means) -> tuple[float, ...]:
        """Return what is to be made small."""
        return tuple(sign * measured[name] for name, sign in self.aims)

    def violations(self, measured: Means, undefended: Means) -> tuple[float, ...]:
        """Return by how much each bound is missed; 0 or less where it is kept."""
        found = []
        for keep in self.keeps:
            beside = undefended[keep.metric] if keep.relative else 0.0
            miss = keep.violation(measured[keep.metric], beside)
            found.append(miss if miss > 1e-12 else min(miss, 0.0))  # rounding misses nothing
        return tuple(found)

    def __str__(self) -> str:
        words = [f"{'minimise' if sign > 0 else 'maximise'} {name}" for name, sign in self.aims]
        return " and ".join(words) + "".join(f", {keep}" for keep in self.keeps)


def read_objective(raw: Json) -> Objective:
    """Check ``search.objective``.

    Raises:
        UsageError: For anything that is no objective.
    """
    where = "search.objective"
    if not isinstance(raw, Mapping) or not {"minimise", "maximise"} & set(raw):
        raise UsageError(
            f"{where} has minimise or maximise with a metric, or both, and may have keep; "
            f"got {raw!r}. Metrics: {', '.join(METRICS)}."
        )
    _reject(raw, ("minimise", "maximise", "keep"), where)
    aims = tuple(
        (_metric(name, f"{where}.{verb}"), sign)
        for verb, sign in (("minimise", 1), ("maximise", -1))
        for name in _several(raw.get(verb, []))
    )
    if not 1 <= len({name for name, _ in aims}) == len(aims) <= 2:
        raise UsageError(f"{where} aims at one metric, or at two different ones; got {raw!r}.")
    keep = raw.get("keep", {})
    if not isinstance(keep, Mapping):
        raise UsageError(f"{where}.keep maps metrics to at_least or at_most; got {keep!r}.")
    return Objective(aims, tuple(k for name, given in keep.items() for k in _keeps(name, given)))


def _several(value: Json) -> list[Json]:
    return value if isinstance(value, list) else [value]


def _metric(name: Json, where: str) -> str:
    if not isinstance(name, str) or name not in METRICS:
        raise UnknownComponent(
            f"{where}: there is no metric {name!r}.{nearest(str(name), METRICS)} "
            f"Allowed: {', '.join(METRICS)}."
        )
    return name


def _keeps(name: Json, given: Json) -> list[Keep]:
    where = f"search.objective.keep.{name}"
    metric = _metric(name, "search.objective.keep")
    if not isinstance(given, Mapping) or not given:
        raise UsageError(f"{where} has at_least or at_most; got {given!r}.")
    _reject(given, ("at_least", "at_most"), where)
    return [
        Keep(metric, side == "at_least", *_bound(value, f"{where}.{side}"))
        for side, value in given.items()
    ]


def _bound(value: Json, where: str) -> tuple[float, bool]:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if number and 0 <= value <= 1:
        return float(value), False
    match = _BOUND.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise UsageError(
            f"{where} is a share in [0, 1], 'undefended', or 'undefended - 0.02'; got {value!r}."
        )
    return float(f"{match[1] or ''}{match[2] or 0}"), True


def _reject(given: Mapping[str, Json], allowed: Sequence[str], where: str) -> None:
    for key in given:
        if key not in allowed:
            raise UnknownComponent(
                f"{where} has no {key!r}.{nearest(key, allowed)} Allowed: {', '.join(allowed)}."
            )


def order(
    numbers: tuple[float, ...], violations: tuple[float, ...]
) -> tuple[float, tuple[float, ...]]:
    """Return a key that puts the best first: who keeps every bound, then who misses by least."""
    missed = math.fsum(v for v in violations if v > 0)
    return missed, numbers
