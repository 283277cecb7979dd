"""Every two defenses against one attack, paired on target and seeds: difference, interval, p."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from harness.report import observations as obs
from harness.report import significance as sig
from harness.report.nested import Nest, independent
from harness.report.observations import Observation
from harness.report.statistics import Interval
from harness.report.summary import Duel, Summary
from harness.report.trials import Setting

ACCURACY = "accuracy"
POINTS = 0.05
"""The difference (a share) for which the report says how many pairs would show it."""


@dataclass(frozen=True, slots=True)
class Pair:
    """Two defenses on the same targets and seeds. Shares are in [0, 1].

    Attributes:
        setting, attack: What both met.
        measure: ``accuracy``, or ``success`` and the name of the headline probe.
        defense, against: The two; the difference is ``defense`` minus ``against``.
        pairs: Targets x poison seeds that both have trials of; of a single poison its victim seeds.
            Trials within one share a poison, and are averaged before any test.
        means: Of all trials, ``defense`` first.
        difference: With its bootstrap interval, which draws the trials within each pair as well.
        deviation: Standard deviation of the paired differences; None of one pair.
        test: ``permutation`` or ``McNemar``; "" where there are too few pairs for any.
        p: Two-sided, of this pair alone; None with fewer than six pairs.
        p_holm: The same, corrected for all pairs of this measure under this attack.
        smallest_p: What pairs that all agree would have.
        tests: How many the correction is for.
    """

    setting: Setting
    attack: str
    measure: str
    defense: str
    against: str
    pairs: int
    means: tuple[float, float]
    difference: Interval
    deviation: float | None
    test: str
    p: float | None
    p_holm: float | None
    smallest_p: float
    tests: int = 0

    @property
    def shown(self) -> bool:
        """Whether the two are told apart, after correction."""
        return self.p_holm is not None and self.p_holm <= sig.ALPHA

    @property
    def hopeless(self) -> bool:
        """Whether no data of so many pairs could tell them apart after correction."""
        return self.p is None or self.smallest_p * self.tests > sig.ALPHA

    def needed(self, points: float) -> int | None:
        """Return how many pairs would show a difference (a share), at this pair's deviation."""
        return None if self.deviation is None else sig.pairs_needed(points, self.deviation)


def compare_pairs(summary: Summary) -> tuple[Pair, ...]:
    """Return all pairs of a run, in the order of its table.

    Holm's correction is over the pairs of one measure under one attack in one setting: what a
    reader looks through to say which defense is better. Only pairs that can have a p below 0.05 at
    all are tested. That depends on how many there are, not on what they show, so leaving the others
    out of the correction takes nothing from it.
    """
    drawn = [pair for duel in summary.duels for pair in _duel_pairs(duel)]
    many = (len(independent(these, nests)) for *_, nests, these, _ in drawn)
    resamples = sig.resamples_for(sum(count >= sig.LEAST_PAIRS for count in many))
    found = [_tested(*one, resamples=resamples) for one in drawn]
    groups = [tuple(group) for _, group in itertools.groupby(found, key=_family)]
    return tuple(pair for group in groups for pair in _corrected(group))


def _family(pair: Pair) -> tuple[Setting, str, str]:
    return pair.setting, pair.attack, pair.measure


def _corrected(pairs: Sequence[Pair]) -> Iterator[Pair]:
    given = [pair.p for pair in pairs if pair.p is not None]
    corrected = iter(sig.holm(given))
    for pair in pairs:
        p_holm = None if pair.p is None else next(corrected)
        yield dataclasses.replace(pair, p_holm=p_holm, tests=len(given))


_Drawn = tuple[Duel, str, str, str, Interval, list[Nest] | None, list[float], list[float]]


def _duel_pairs(duel: Duel) -> Iterator[_Drawn]:
    """Yield duel, measure, two defenses, their difference, and their pairs: where, and values."""
    for measure, found in measures(duel).items():
        for against, defense in itertools.combinations(found, 2):
            difference = obs.paired_difference(found[defense], found[against])
            if difference is not None:
                pairs = obs.matched(found[defense], found[against])
                yield duel, measure, defense, against, difference, *pairs


def measures(duel: Duel) -> dict[str, dict[str, list[Observation]]]:
    """Return what is compared of a duel: per measure, each defense's observations."""
    rows = [row for row in duel.rows if row.trials]
    found = {}
    headline = next((row.headline.name for row in rows if row.headline), None)
    if headline is not None:
        found[f"success {headline}"] = {
            row.defense: obs.successes(duel.trials[row.defense], headline) for row in rows
        }
    found[ACCURACY] = {row.defense: obs.accuracy(duel.trials[row.defense]) for row in rows}
    return found


@dataclass(frozen=True, slots=True)
class Tested:
    """A test of pairs: its name, its p, and the p of pairs that all agree."""

    name: str
    p: float | None
    smallest_p: float


def tested_pairs(
    these: Sequence[float], those: Sequence[float], goal: str, resamples: int
) -> Tested:
    """Test pairs as suits them; without a p where there are too few for any.

    Args:
        these, those: One share per pair, in the same order.
        goal: ``targeted`` where a pair is a target, hit or not.
        resamples: Of the permutation test.
    """
    pairs = len(these)
    if pairs < sig.LEAST_PAIRS:
        return Tested("", None, sig.smallest_paired_p(pairs, resamples))
    if goal == "targeted" and set(these) | set(those) <= {0.0, 1.0}:
        yes, no = [value == 1 for value in these], [value == 1 for value in those]
        return Tested("McNemar", sig.mcnemar_exact(yes, no), 2.0 ** (1 - pairs))
    p = sig.paired_permutation(these, those, resamples)
    return Tested("permutation", p, sig.smallest_paired_p(pairs, resamples))


def _tested(
    duel: Duel, measure: str, defense: str, against: str, difference: Interval,
    nests: list[Nest] | None, these: list[float], those: list[float], *, resamples: int,
) -> Pair:  # fmt: skip
    left, right = (independent(values, nests) for values in (these, those))
    apart = np.subtract(left, right)
    test = tested_pairs(left, right, duel.goal if measure != ACCURACY else "", resamples)
    return Pair(
        setting=duel.setting, attack=duel.attack, measure=measure, defense=defense,
        against=against, pairs=len(left),
        means=(float(np.mean(these)), float(np.mean(those))),
        difference=difference,
        deviation=float(np.std(apart, ddof=1)) if len(left) > 1 else None,
        test=test.name, p=test.p, p_holm=None, smallest_p=test.smallest_p,
    )  # fmt: skip


def to_frame(pairs: Iterable[Pair]) -> pd.DataFrame:
    """Return the pairs as numbers: shares in [0, 1]."""
    return pd.DataFrame([
        {
            "dataset": p.setting[0], "scenario": p.setting[1], "classifier": p.setting[2],
            "attack": p.attack, "measure": p.measure, "defense": p.defense, "against": p.against,
            "pairs": p.pairs, "mean": p.means[0], "mean_against": p.means[1],
            "difference": p.difference.value, "difference_low": p.difference.low,
            "difference_high": p.difference.high, "difference_method": p.difference.method,
            "deviation": p.deviation, "test": p.test, "p": p.p, "p_holm": p.p_holm,
            "smallest_p": p.smallest_p, "tests": p.tests,
            f"pairs_for_{100 * POINTS:.0f}_points": p.needed(POINTS),
            "pairs_for_difference": p.needed(p.difference.value),
        }
        for p in pairs
    ])  # fmt: skip
