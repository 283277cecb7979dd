"""Where each configuration of a search came to, and which one is chosen."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.report.pareto import front as pareto_front
from harness.search.configuration import Configuration
from harness.search.measured import Measured
from harness.search.objective import order
from harness.search.section import Search


@dataclass(frozen=True, slots=True)
class Standing:
    """What became of a configuration.

    Attributes:
        configuration: Which.
        trials: How many trials it was compared on last.
        whole: Whether these are all; otherwise it was dropped there, or failed.
        measured: On those trials; None if one failed.
        numbers: Its aims, lower is better; None if a trial failed.
        violations: By how much it misses each bound; 0 or less where it keeps it.
    """

    configuration: Configuration
    trials: int
    whole: bool
    measured: Measured | None = None
    numbers: tuple[float, ...] | None = None
    violations: tuple[float, ...] = ()

    @property
    def keeps(self) -> bool:
        """Whether it keeps every bound."""
        return self.numbers is not None and all(v <= 0 for v in self.violations)


@dataclass(frozen=True, slots=True)
class Found:
    """The end of a search.

    Attributes:
        search: What was asked.
        standings: Of every configuration, in the order of proposal.
        undefended: What the same trials measure without a defense; None where there are none.
        chosen: The best one; with two aims the front. Empty if all failed.
        front: Numbers of the configurations that none other beats in both measures.
        held_out: Folder of the run that reports what was chosen, if one was asked for.
        errors: What failed.
    """

    search: Search
    standings: tuple[Standing, ...]
    undefended: Measured | None
    chosen: tuple[Standing, ...]
    front: frozenset[int]
    held_out: Path | None = None
    errors: tuple[str, ...] = ()


def choose(
    search: Search, standings: Sequence[Standing]
) -> tuple[tuple[Standing, ...], frozenset[int]]:
    """Return the best configurations, and the numbers of those on the front.

    Only those that have all their trials are considered. Those that miss a bound are
    chosen from only where nobody keeps them all.
    """
    whole = [s for s in standings if s.whole and s.numbers is not None]
    if not whole:
        return (), frozenset()
    front = _front(search, whole)
    if len(search.objective.aims) == 1:
        best = min(whole, key=lambda s: order(s.numbers or (), s.violations))
        return (best,), frozenset(s.configuration.number for s in front)
    keeping = [s for s in whole if s.keeps]
    chosen = _front(search, keeping) if keeping else front
    return tuple(chosen), frozenset(s.configuration.number for s in front)


def _front(search: Search, standings: Sequence[Standing]) -> list[Standing]:
    points = []
    for one in standings:
        measured = one.measured or {}
        first, second = (sign * measured[name].value for name, sign in search.objective.pair)
        points.append((first, second))
    return [standings[i] for i in pareto_front(points)]
