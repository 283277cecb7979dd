"""The rows of two runs that have the same setting, attack and defense, and how they differ."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from harness.comparison.settings import Difference, differing_settings
from harness.report import significance as sig
from harness.report.collect import Run
from harness.report.nested import Nest, independent
from harness.report.observations import Observation, by_key
from harness.report.pairs import ACCURACY, measures, tested_pairs
from harness.report.statistics import Interval, difference_interval, mean_interval
from harness.report.summary import Duel, summarise
from harness.report.trials import PairKey, Setting


@dataclass(frozen=True, slots=True)
class Line:
    """One number of one row of the tables. Shares are in [0, 1].

    Attributes:
        setting, attack, defense: Which row.
        measure: ``accuracy``, or ``success`` and the name of the headline probe.
    """

    setting: Setting
    attack: str
    defense: str
    measure: str


@dataclass(frozen=True, slots=True)
class Match:
    """A number that both runs have. Shares are in [0, 1].

    Attributes:
        line: Which number.
        means: Of the trials compared, the first run's first.
        trials: How many those are (targets x poison seeds x victim seeds).
        pairs: How many targets and seeds both have; 0 where trials are compared unpaired.
        difference: Second run minus first, with its bootstrap interval.
        deviation: Of the paired differences, or of the trials of both runs pooled; None if unknown.
        test: ``permutation``, ``McNemar`` or "" where there are too few trials for any.
        p, p_holm: Two-sided; of this line alone, and corrected for all lines.
        smallest_p: What trials that all agree would have.
        tests: How many the correction is for.
    """

    line: Line
    means: tuple[float, float]
    trials: tuple[int, int]
    pairs: int
    difference: Interval
    deviation: float | None
    test: str
    p: float | None
    p_holm: float | None
    smallest_p: float
    tests: int = 0

    @property
    def shown(self) -> bool:
        """Whether the runs differ here, after correction."""
        return self.p_holm is not None and self.p_holm <= sig.ALPHA

    @property
    def same(self) -> bool:
        """Whether every compared trial has the very same number in both runs."""
        equal = self.difference.method == "none"  # each differs as all do, also within a pair
        return bool(self.pairs) and equal and self.difference.value == 0

    @property
    def hopeless(self) -> bool:
        """Whether no data of so many trials could differ after correction."""
        return self.p is None or self.smallest_p * self.tests > sig.ALPHA

    def needed(self, points: float) -> int | None:
        """Return how many pairs, or trials of each run, would show a difference (a share)."""
        if self.deviation is None:
            return None
        needed = sig.pairs_needed if self.pairs else sig.trials_needed
        return needed(points, self.deviation)


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two runs side by side.

    Attributes:
        first, second: The runs.
        matches: Numbers that both have.
        first_only, second_only: Numbers that one alone has.
        settings: In what the runs differ.
    """

    first: Run
    second: Run
    matches: tuple[Match, ...]
    first_only: tuple[Line, ...]
    second_only: tuple[Line, ...]
    settings: tuple[Difference, ...]


@dataclass(frozen=True, slots=True)
class _Found:
    goal: str
    observations: list[Observation]


def compare_runs(first: Run, second: Run) -> Comparison:
    """Compare two runs, row by row; Holm's correction is over all rows."""
    left, right = _lines(first), _lines(second)
    both = [line for line in left if line in right]
    tests = sum(_testable(left[line], right[line]) for line in both)
    resamples = sig.resamples_for(tests)
    found = [_match(line, left[line], right[line], resamples) for line in both]
    corrected = iter(sig.holm([match.p for match in found if match.p is not None]))
    matches = tuple(
        dataclasses.replace(m, p_holm=None if m.p is None else next(corrected), tests=tests)
        for m in found
    )
    return Comparison(
        first, second, matches,
        tuple(line for line in left if line not in right),
        tuple(line for line in right if line not in left),
        differing_settings(first, second),
    )  # fmt: skip


def _lines(run: Run) -> dict[Line, _Found]:
    return {
        Line(duel.setting, duel.attack, defense, measure): _Found(_goal(duel, measure), found)
        for duel in summarise(run.trials).duels
        for measure, by_defense in measures(duel).items()
        for defense, found in by_defense.items()
        if found
    }


def _goal(duel: Duel, measure: str) -> str:
    return "" if measure == ACCURACY else duel.goal


def _values(left: _Found, right: _Found) -> tuple[bool, dict[PairKey, float], dict[PairKey, float]]:
    """Return whether the runs are paired, and their values: of the pairs, or all of both.

    A single target and seed in common says less than all trials unpaired, unless a run has only
    one.
    """
    these, those = by_key(left.observations), by_key(right.observations)
    keys = [key for key in these if key in those]
    if keys and len(keys) >= min(2, len(these), len(those)):
        return True, {key: these[key] for key in keys}, {key: those[key] for key in keys}
    return False, these, those


def _testable(left: _Found, right: _Found) -> bool:
    paired, these, those = _values(left, right)
    first, second = (len(independent([*v.values()], [*v])) for v in (these, those))
    if paired:
        return first >= sig.LEAST_PAIRS
    return sig.smallest_unpaired_p(first, second) <= sig.ALPHA


def _match(line: Line, left: _Found, right: _Found, resamples: int) -> Match:
    paired, first, second = _values(left, right)
    these, those = list(first.values()), list(second.values())
    nests = list(first), list(second)
    means = float(np.mean(these)), float(np.mean(those))
    if paired:
        return _paired(line, left.goal, these, those, nests, resamples, means)
    return _unpaired(line, these, those, nests, resamples, means)


_Nests = tuple[Sequence[Nest], Sequence[Nest]]


def _paired(
    line: Line, goal: str, these: Sequence[float], those: Sequence[float], nests: _Nests,
    resamples: int, means: tuple[float, float],
) -> Match:  # fmt: skip
    left, right = independent(these, nests[0]), independent(those, nests[0])
    test = tested_pairs(right, left, goal, resamples)
    return Match(
        line, means, (len(these), len(those)), len(left),
        mean_interval(np.subtract(those, these).tolist(), nests=nests[0]),
        float(np.std(np.subtract(right, left), ddof=1)) if len(left) > 1 else None,
        test.name, test.p, None, test.smallest_p,
    )  # fmt: skip


def _unpaired(
    line: Line, these: Sequence[float], those: Sequence[float], nests: _Nests,
    resamples: int, means: tuple[float, float],
) -> Match:  # fmt: skip
    left, right = independent(these, nests[0]), independent(those, nests[1])
    least = sig.smallest_unpaired_p(len(left), len(right), resamples)
    possible = least <= sig.ALPHA
    deviation = None
    if min(len(left), len(right)) > 1:
        within = [value - float(np.mean(group)) for group in (left, right) for value in group]
        deviation = float(np.std(within, ddof=2))
    return Match(
        line, means, (len(these), len(those)), 0,
        difference_interval(those, these, nests=(nests[1], nests[0])), deviation,
        "permutation" if possible else "",
        sig.unpaired_permutation(right, left, resamples) if possible else None,
        None, least,
    )  # fmt: skip
