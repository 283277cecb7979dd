"""A bootstrap of trials that hang together: targets first, and within each its seeds.

Trials of one target share its poison, so several seeds of one are no several targets. Who draws all
trials as if nothing tied them gets an interval that is too narrow.
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
"""Where a trial stands, from the outside in: target, poison, purification and victim seed."""

Tree: TypeAlias = "float | list[Tree]"
"""Values by their nest: a value, or the branches of a level."""

NESTED = "nested"
"""First word of the name of an interval that was made this way."""


def tree_of(values: Sequence[float], nests: Sequence[Nest]) -> Tree:
    """Return values by their nest, without the levels that do not branch.

    >>> tree_of([0.1, 0.2, 0.3], [(2, 0, 0), (2, 0, 1), (7, 0, 0)])
    [[0.1, 0.2], 0.3]
    >>> tree_of([0.1, 0.2], [(2, 0, 0), (2, 0, 1)])
    [0.1, 0.2]
    """
    if len(values) == 1:
        return values[0]
    groups: dict[Hashable, tuple[list[float], list[Nest]]] = {}
    for value, nest in zip(values, nests, strict=True):
        if not nest:  # nothing tells these apart any more
            return list(values)
        found = groups.setdefault(nest[0], ([], []))
        found[0].append(value)
        found[1].append(nest[1:])
    branches = [tree_of(*group) for group in groups.values()]
    return branches[0] if len(branches) == 1 else branches


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


def is_flat(tree: Tree) -> bool:
    """Whether no level stands within another, so that nothing hangs together."""
    return isinstance(tree, float) or all(isinstance(branch, float) for branch in tree)


def nested_ends(
    tree: Sequence[Tree], resamples: int, confidence: float, seed: int
) -> tuple[str, tuple[float, float]]:
    """Return method and ends of an interval of the mean of all values.

    BCa needs three branches at the top, over which its jackknife goes; fewer get percentiles.
    """
    sums, counts = zip(*map(_total, tree), strict=True)
    draws = drawn_means([*tree], resamples, np.random.default_rng(seed))
    for method in ("BCa", "percentile") if len(tree) > 2 else ("percentile",):
        with warnings.catch_warnings():
            # BCa warns, and answers nan, where its jackknife degenerates.
            warnings.simplefilter("ignore")
            found = stats.bootstrap(
                (np.array(sums), np.array(counts)), _ratio, paired=True, vectorized=True,
                n_resamples=0, bootstrap_result=SimpleNamespace(bootstrap_distribution=draws),
                method=method, confidence_level=confidence,
            ).confidence_interval  # fmt: skip
        if np.isfinite([found.low, found.high]).all():
            break
    return f"{NESTED} {method}", (float(found.low), float(found.high))


def drawn_means(tree: Tree, size: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return the means of so many draws; each draws anew on every level, with replacement.

    What is drawn twice is filled anew each time. Where targets differ little, that errs to the wide
    side; where they are few, a bootstrap's variance is too small by (n - 1) / n.
    """
    sums, counts = _draw(tree, size, rng)
    return sums / counts


def _draw(
    tree: Tree, size: int, rng: np.random.Generator
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sum and number of the values of so many draws."""
    if isinstance(tree, float):
        return np.full(size, tree), np.ones(size)
    chosen = rng.integers(len(tree), size=(size, len(tree)))
    if is_flat(tree):
        return np.array(tree)[chosen].sum(axis=1), np.full(size, float(len(tree)))
    sums, counts = np.empty(chosen.shape), np.empty(chosen.shape)
    for index, branch in enumerate(tree):
        here = chosen == index
        sums[here], counts[here] = _draw(branch, int(here.sum()), rng)
    return sums.sum(axis=1), counts.sum(axis=1)


def _total(tree: Tree) -> tuple[float, int]:
    if isinstance(tree, float):
        return tree, 1
    sums, counts = zip(*map(_total, tree), strict=True)
    return sum(sums), sum(counts)


def _ratio(
    sums: NDArray[np.float64], counts: NDArray[np.float64], axis: int
) -> NDArray[np.float64]:
    found: NDArray[np.float64] = sums.sum(axis=axis) / counts.sum(axis=axis)
    return found
