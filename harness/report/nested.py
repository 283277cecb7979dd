"""A bootstrap of trials that hang together: what they share is drawn once for all that share it.

Trials of one target share its poison, so several seeds of one are no several targets; and a study
runs the same seeds on every target, so several targets with one victim seed are no several victims.
Who draws all trials as if nothing tied them gets an interval that is too narrow.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable, Sequence
from types import SimpleNamespace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Nest: TypeAlias = tuple[Hashable, ...]
"""Where a trial stands: target, poison, purification and victim seed."""

Chain: TypeAlias = list[Nest]
"""What is drawn for itself: of each trial its place in it, from the outside in."""

NESTED, CROSSED = "nested", "crossed"
"""First words of the names of intervals that mind one chain, and several."""

_AT_ONCE = 2**21  # weights of draws that are held at once


def chains_of(nests: Sequence[Nest]) -> list[Chain]:
    """Return what trials are drawn by.

    A poison seed belongs to its target: with the same number, each target's poison is another one.
    Purification and victim seeds that several poisons share are drawn for all of these at once; so
    is a seed that is used for poison, purification and victim alike.

    >>> chains_of([(2, 0, 0, 0), (7, 0, 0, 0)])  # two targets; the last number tells trials apart
    [[(2, 0, 0), (7, 0, 1)]]
    >>> chains_of([(2, 0, 0, 0), (2, 0, 0, 1), (7, 0, 0, 0), (7, 0, 0, 1)])  # and two victim seeds
    [[(2,), (2,), (7,), (7,)], [(0,), (1,), (0,), (1,)]]
    """
    outer: Chain = [nest[:2] for nest in nests]
    several, inner = len(set(outer)) > 1, outer
    shared: list[Chain] = []
    for column in zip(*(nest[2:] for nest in nests), strict=True):
        seeds: Chain = [(seed,) for seed in column]
        if len(set(seeds)) == 1:
            continue
        if several and _determines(seeds, outer):  # each poison has seeds of its own
            inner = _joined(inner, seeds)
        else:
            shared = _with(shared, seeds)
    if any(_determines(chain, [nest[1:2] for nest in nests]) for chain in shared):
        inner = [(place[0], *place[2:]) for place in inner]
    chains = [inner, *shared] if len(set(inner)) > 1 else shared
    if len(chains) > 1:
        return chains
    only = chains[0] if chains else inner
    return [_joined(only, [(index,) for index in range(len(nests))])]


def _determines(chain: Chain, other: Chain) -> bool:
    """Whether each place of a chain stands in one place of another alone."""
    return len({*zip(chain, other, strict=True)}) == len(set(chain))


def _joined(outer: Chain, inner: Chain) -> Chain:
    return [(*place, *within) for place, within in zip(outer, inner, strict=True)]


def _with(shared: list[Chain], seeds: Chain) -> list[Chain]:
    """Add a seed to the chain that it belongs to, or as one of its own."""
    for index, chain in enumerate(shared):
        if _determines(seeds, chain):
            return [*shared[:index], _joined(chain, seeds), *shared[index + 1 :]]
        if _determines(chain, seeds):
            return [*shared[:index], _joined(seeds, chain), *shared[index + 1 :]]
    return [*shared, seeds]


def is_flat(chains: Sequence[Chain]) -> bool:
    """Whether nothing hangs together."""
    return len(chains) == 1 and len(_branches(chains[0])) == len(chains[0])


def _branches(chain: Chain) -> dict[Hashable, list[int]]:
    """Return which trials stand together on the outermost level that tells any apart."""
    for level in range(len(chain[0])):
        found: dict[Hashable, list[int]] = {}
        for index, place in enumerate(chain):
            found.setdefault(place[level], []).append(index)
        if len(found) > 1:
            return found
    return {(): [*range(len(chain))]}


def independent(values: Sequence[float], nests: Sequence[Nest] | None) -> list[float]:
    """Return the means of what shares a poison, which a test must not take for independent.

    That is each target with a poison seed; where all share one, its victims stand for themselves.

    Args:
        values: One per nest.
        nests: Where they stand; None where nothing is known to hang together.

    >>> independent([0.0, 1.0, 1.0], [(2, 0, 0), (2, 0, 1), (7, 0, 0)])
    [0.5, 1.0]
    >>> independent([0.0, 1.0], [(2, 0, 0), (2, 0, 1)])
    [0.0, 1.0]
    """
    if nests is None:
        return list(values)
    poisons: dict[Nest, list[float]] = {}
    for value, nest in zip(values, nests, strict=True):
        poisons.setdefault(nest[:2], []).append(value)
    if len(poisons) == 1:
        return list(values)
    return [sum(group) / len(group) for group in poisons.values()]


def tied_ends(
    values: NDArray[np.float64], chains: Sequence[Chain], resamples: int, confidence: float,
    seed: int,
) -> tuple[str, tuple[float, float]]:  # fmt: skip
    """Return method and ends of an interval of the mean.

    Of one chain BCa, if it has three branches, over which its jackknife goes. Of fewer, and of
    several chains, percentiles.
    """
    draws = drawn_means(values, chains, resamples, np.random.default_rng(seed))
    if len(chains) > 1:
        return f"{CROSSED} percentile", percentiles(draws, confidence)
    groups = [*_branches(chains[0]).values()]
    if len(groups) > 2:
        sums = np.array([values[group].sum() for group in groups])
        counts = np.array([float(len(group)) for group in groups])
        with warnings.catch_warnings():
            # BCa warns, and answers nan, where its jackknife degenerates.
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (sums, counts), _ratio, paired=True, vectorized=True, n_resamples=0,
                bootstrap_result=SimpleNamespace(bootstrap_distribution=draws), method="BCa",
                confidence_level=confidence,
            ).confidence_interval  # fmt: skip
        if np.isfinite([found.low, found.high]).all():
            return f"{NESTED} BCa", (float(found.low), float(found.high))
    return f"{NESTED} percentile", percentiles(draws, confidence)


def percentiles(draws: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the ends between which this share of the draws lies."""
    tail = 50 * (1 - confidence)
    low, high = np.percentile(draws, (tail, 100 - tail))
    return float(low), float(high)


def drawn_means(
    values: NDArray[np.float64], chains: Sequence[Chain], size: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return the means of so many draws, with replacement: of each chain, on each of its levels.

    A trial counts as often as its place in one chain was drawn, times that in the others. What is
    drawn twice on one level is filled anew on the next. Where targets or seeds differ little, that
    errs to the wide side; where they are few, a bootstrap's variance is too small by (n - 1) / n.

    Source: for crossed chains Owen, The pigeonhole bootstrap, Annals of Applied Statistics 2007.
    """
    part = max(1, _AT_ONCE // len(values))
    means = []
    for start in range(0, size, part):
        count = min(part, size - start)
        weights = np.ones((count, len(values)))
        for chain in chains:
            weights *= _times(chain, count, rng)
        totals = weights.sum(1)
        # Where not every target has every seed, a draw may hold no trial at all.
        means.append((weights @ values)[totals > 0] / totals[totals > 0])
    return np.concatenate(means)


def _times(chain: Chain, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return how often each trial's place is drawn: (size, trials)."""
    times = np.empty((size, len(chain)))

    def fill(rows: list[int], drawn: NDArray[np.int64]) -> None:
        groups = [*_branches([chain[row] for row in rows]).values()]
        if len(groups) == 1:
            times[:, rows] = drawn[:, None]
            return
        share = np.full(len(groups), 1 / len(groups))
        for group, often in zip(groups, rng.multinomial(drawn * len(groups), share).T, strict=True):
            fill([rows[index] for index in group], often)

    fill([*range(len(chain))], np.ones(size, dtype=np.int64))
    return times


def _ratio(
    sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    found: NDArray[np.float64] = sums.sum(axis=axis) / counts.sum(axis=axis)
    return found
