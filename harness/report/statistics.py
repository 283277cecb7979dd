"""Intervals around shares and means: thin functions over scipy, no formula of our own."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from harness.core.errors import DataError
from harness.report.nested import (
    CROSSED,
    NESTED,
    Chain,
    Nest,
    chains_of,
    drawn_means,
    is_flat,
    percentiles,
    tied_ends,
)

CONFIDENCE = 0.95
RESAMPLES = 9_999


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate and its 95 % interval.

    Attributes:
        value: The estimate; a share in [0, 1], or a difference of shares in [-1, 1].
        low, high: Ends of the interval, with ``low <= value <= high``; None where the data allow
            none (one number without counts, or numbers that are all the same).
        n: Observations: images of a Wilson interval, trials of a bootstrap or of a t interval.
        method: ``wilson``, ``BCa``, ``percentile``, ``t`` or ``none``; ``nested BCa``, ``nested
            percentile`` and ``crossed percentile`` where trials hang together, see
            :mod:`harness.report.nested`.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    method: str

    @property
    def tied(self) -> str:
        """What its trials hang together by, ``nested`` or ``crossed``; "" where nothing ties."""
        return next((word for word in (NESTED, CROSSED) if self.method.startswith(word)), "")


def wilson(k: int, n: int) -> Interval:
    """Return ``k`` of ``n`` as a share, with its Wilson score interval.

    Raises:
        DataError: If ``n`` is not positive or ``k`` is outside 0..n.

    >>> wilson(0, 10).low
    0.0
    """
    if not (n > 0 and 0 <= k <= n):
        raise DataError(f"a share needs 0 <= k <= n and n > 0; got k={k}, n={n}.")
    ends = stats.binomtest(k, n).proportion_ci(confidence_level=CONFIDENCE, method="wilson")
    return _around(k / n, ends, n, "wilson")


def mean_interval(
    values: Sequence[float], seed: int = 0, nests: Sequence[Nest] | None = None
) -> Interval:
    """Return the mean of ``values`` with a bootstrap interval over them.

    BCa needs three values; two get the percentile interval, which is their range. Equal values say
    nothing about their spread, so they get none.

    Args:
        values: One per trial.
        seed: Of the resampling: the same values give the same interval.
        nests: Where each trial stands. What trials share is drawn for all of them at once; where
            each has a target of its own the interval is that of values which nothing ties.

    Raises:
        DataError: If there are no values.
    """
    if not len(values):
        raise DataError("the mean of no values is undefined.")
    sample = np.asarray(values, dtype=np.float64)
    mean, n = float(sample.mean()), len(sample)
    if np.ptp(sample) < 1e-12:  # differences that are equal but for rounding
        return Interval(mean, None, None, n, "none")
    chains = _chains(sample, nests)
    if not is_flat(chains):
        name, ends = tied_ends(sample, chains, RESAMPLES, CONFIDENCE, seed)
        return _around(mean, ends, n, name)
    if n > 2:
        ends = _bootstrap([sample], "BCa", seed)
        if np.isfinite(ends).all():
            return _around(mean, ends, n, "BCa")
    return _around(mean, _bootstrap([sample], "percentile", seed), n, "percentile")


def interval_of_printed(
    mean: float, deviation: float, n: int, *, population: bool = False
) -> Interval:
    """Return a mean with its t interval, where only a standard deviation is left of its values.

    Args:
        mean: Of the values.
        deviation: Their standard deviation. 0 says nothing about their spread, and one value has
            none: then there is no interval.
        n: How many values there were.
        population: Whether the deviation divides by ``n``, where the sample's divides by ``n - 1``.

    Raises:
        DataError: If ``n`` is not positive or the deviation is negative.

    >>> round(interval_of_printed(0.5, 0.1, 10).high, 4)
    0.5715
    """
    if n < 1 or deviation < 0:
        raise DataError(f"needs n > 0 and a deviation >= 0; got n={n}, deviation={deviation:g}.")
    if n == 1 or deviation == 0:
        return Interval(mean, None, None, n, "none")
    error = deviation / np.sqrt(n - 1 if population else n)
    return _around(mean, stats.t.interval(CONFIDENCE, n - 1, loc=mean, scale=error), n, "t")


def difference_interval(
    these: Sequence[float],
    those: Sequence[float],
    seed: int = 0,
    nests: tuple[Sequence[Nest], Sequence[Nest]] | None = None,
) -> Interval:
    """Return the difference of two means with a bootstrap interval over both groups.

    Args:
        these, those: One value per trial of each group; nothing pairs them.
        seed: Of the resampling.
        nests: Where each trial of each group stands (see :func:`mean_interval`).

    Raises:
        DataError: If a group is empty.
    """
    if not (len(these) and len(those)):
        raise DataError("the difference of two means needs values on both sides.")
    groups = [np.asarray(values, dtype=np.float64) for values in (these, those)]
    value, n = float(groups[0].mean() - groups[1].mean()), min(map(len, groups))
    if n < 2 or all(np.ptp(group) < 1e-12 for group in groups):
        return Interval(value, None, None, n, "none")
    both = [_chains(g, nest) for g, nest in zip(groups, nests or (None, None), strict=True)]
    if not all(map(is_flat, both)):
        rng = np.random.default_rng(seed)
        draws = [
            drawn_means(group, chains, RESAMPLES, rng)
            for group, chains in zip(groups, both, strict=True)
        ]
        fewest = min(map(len, draws))
        ends = percentiles(draws[0][:fewest] - draws[1][:fewest], CONFIDENCE)
        word = CROSSED if max(map(len, both)) > 1 else NESTED
        return _around(value, ends, n, f"{word} percentile")
    method = "BCa" if n > 2 and all(np.ptp(group) > 1e-12 for group in groups) else "percentile"
    ends = _bootstrap(groups, method, seed)
    if not np.isfinite(ends).all():
        method, ends = "percentile", _bootstrap(groups, "percentile", seed)
    return _around(value, ends, n, method)


def share_interval(
    counts: Sequence[tuple[int, int]], seed: int = 0, nests: Sequence[Nest] | None = None
) -> Interval:
    """Return the mean of the shares k/n of several trials, with an interval.

    Several trials: bootstrap over them, because images of one trial share a trained network. One
    trial, or trials that all show the same share: Wilson on the counts of the smallest one.

    Args:
        counts: (k, n) per trial, n > 0.
        seed: Of the resampling.
        nests: Where each trial stands (see :func:`mean_interval`).
    """
    interval = mean_interval([k / n for k, n in counts], seed, nests)
    if interval.method != "none":
        return interval
    return wilson(*min(counts, key=lambda pair: pair[1]))


def _chains(values: NDArray[np.float64], nests: Sequence[Nest] | None) -> list[Chain]:
    return chains_of([(index,) for index in range(len(values))] if nests is None else nests)


def _bootstrap(groups: Sequence[np.ndarray], method: str, seed: int) -> tuple[float, float]:
    """Return the ends for the mean of one group, or for the difference of the means of two."""
    with warnings.catch_warnings():
        # BCa warns, and answers nan, where its jackknife degenerates; the caller looks for nan.
        warnings.simplefilter("ignore")
        result = stats.bootstrap(
            tuple(groups), np.mean if len(groups) == 1 else difference_of_means,
            n_resamples=RESAMPLES, batch=1_000, method=method, vectorized=True,
            confidence_level=CONFIDENCE, rng=np.random.default_rng(seed),
        )  # fmt: skip
    return float(result.confidence_interval.low), float(result.confidence_interval.high)


def difference_of_means(
    x: NDArray[np.float64], y: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    """Return mean(x) - mean(y) along an axis, for scipy's resampling."""
    found: NDArray[np.float64] = np.mean(x, axis=axis) - np.mean(y, axis=axis)
    return found


def _around(value: float, ends: tuple[float, float], n: int, method: str) -> Interval:
    """Widen the ends to the estimate: BCa of very skewed values may leave it outside."""
    return Interval(value, min(float(ends[0]), value), max(float(ends[1]), value), n, method)
