"""Tests of differences: thin functions over scipy and statsmodels, no formula of our own."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.report.statistics import difference_of_means

ALPHA = 0.05
POWER = 0.8
RESAMPLES = 9_999

LEAST_PAIRS = 6
"""Fewer pairs have no p below 0.05, whatever they show: 5 that agree have 2 / 2^5 = 0.0625."""


def paired_permutation(
    these: Sequence[float], those: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Return the two-sided p of the mean paired difference, by swapping the two of each pair.

    Exact while there are at most ``resamples`` ways to swap, that is up to 13 pairs.

    Args:
        these, those: One value per pair, in the same order.
        resamples: Random swaps where there are more ways.
        seed: Of them: the same values give the same p.
    """
    return _permutation(these, those, "samples", resamples, seed)


def unpaired_permutation(
    these: Sequence[float], those: Sequence[float], resamples: int = RESAMPLES, seed: int = 0
) -> float:
    """Return the two-sided p of the difference of two means, by dealing all values anew."""
    return _permutation(these, those, "independent", resamples, seed)


def _permutation(
    these: Sequence[float], those: Sequence[float], kind: str, resamples: int, seed: int
) -> float:
    found = stats.permutation_test(
        (np.asarray(these, dtype=np.float64), np.asarray(those, dtype=np.float64)),
        _rounded_difference, permutation_type=kind, vectorized=True, n_resamples=resamples,
        batch=1_000, alternative="two-sided", rng=np.random.default_rng(seed),
    )  # fmt: skip
    return float(found.pvalue)


def _rounded_difference(
    x: NDArray[np.float64], y: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """Ways to swap that are tied must not be told apart by their last bits."""
    found: NDArray[np.float64] = np.round(difference_of_means(x, y, axis), 12)
    return found


def mcnemar_exact(these: Sequence[bool], those: Sequence[bool]) -> float:
    """Return the two-sided p of McNemar's exact test on pairs of yes and no."""
    from statsmodels.stats.contingency_tables import mcnemar

    table = np.zeros((2, 2), dtype=np.int64)
    np.add.at(table, (np.asarray(these, dtype=int), np.asarray(those, dtype=int)), 1)
    return float(mcnemar(table, exact=True).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return p-values adjusted for all of them being looked at together (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    if not p_values:
        return []
    return [float(p) for p in multipletests(p_values, alpha=ALPHA, method="holm")[1]]


def resamples_for(tests: int) -> int:
    """Return how many resamples let a p survive the correction for so many tests.

    The smallest p is 2 / (resamples + 1), and Holm multiplies it by up to ``tests``.
    """
    return max(RESAMPLES, 100 * tests)


def smallest_paired_p(pairs: int, resamples: int = RESAMPLES) -> float:
    """Return the p of pairs that all agree: no data can show less.

    >>> smallest_paired_p(6)
    0.03125
    """
    return max(2.0 ** (1 - pairs), 2 / (resamples + 1))


def smallest_unpaired_p(these: int, those: int, resamples: int = RESAMPLES) -> float:
    """Return the smallest p of two groups of these sizes."""
    return min(1.0, 2 / min(math.comb(these + those, these), resamples + 1))


def pairs_needed(difference: float, deviation: float) -> int | None:
    """Return how many pairs show a difference at 80 % power and alpha 0.05, two-sided.

    The power of the paired t test, and never below the pairs that a permutation test needs. No
    correction for several comparisons is in it.

    Args:
        difference: To be shown, a share; its sign does not matter.
        deviation: Standard deviation of the paired differences, a share.

    Returns:
        A number of pairs; None where there is no difference or no deviation to judge by.
    """
    from statsmodels.stats.power import TTestPower

    effect = _effect(difference, deviation)
    if effect is None:
        return None
    if effect > 2:  # 5 pairs would do for a t test
        return LEAST_PAIRS
    pairs = float(TTestPower().solve_power(effect_size=effect, alpha=ALPHA, power=POWER))
    return max(LEAST_PAIRS, math.ceil(pairs))


def trials_needed(difference: float, deviation: float) -> int | None:
    """Return how many trials each of two unpaired groups needs (see :func:`pairs_needed`)."""
    from statsmodels.stats.power import TTestIndPower

    effect = _effect(difference, deviation)
    if effect is None:
        return None
    if effect > 3:
        return 4  # fewer in each group have no p below 0.05
    trials = float(TTestIndPower().solve_power(effect_size=effect, alpha=ALPHA, power=POWER))
    return max(4, math.ceil(trials))


def _effect(difference: float, deviation: float) -> float | None:
    if abs(difference) < 1e-12 or deviation < 1e-12:
        return None
    effect = abs(difference) / deviation
    return effect if effect > 1e-3 else None  # millions of trainings: nobody's plan
