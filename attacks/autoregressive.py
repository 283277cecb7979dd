"""Autoregressive poisons: noise in which pixels follow from neighbours by a rule of the class."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks._class_patterns import add_patterns
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import stream, subseed

Rules = NDArray[np.float64]
"""Coefficients of processes, (..., 8): a 3x3 window in reading order without its last, which they
predict; they sum to 1."""

_SKIPPED = 4  # first rows and columns of a signal, in which the start shows; published
_CANDIDATES = 64  # rules drawn at once
_LARGEST = 10.0  # a rule whose signals reach more diverges; they start from a deviation of 1
_SMALLEST = 0.1  # a rule whose signals end with a smaller deviation dies out
_LEAST_RESIDUAL = 0.5  # how badly rules must predict each other's signals, over their deviation,
_RELAXED = 0.9  # times this for each batch of candidates of which none was taken


def scan(rules: Rules, start: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return signals (S, T, ...) that follow their rules from the first two rows and columns on.

    Args:
        rules: (..., 8).
        start: (S, T, ...): all but the first two rows and columns is replaced.

    Source: Autoregressive Perturbations, arXiv 2206.03693, section 3.
    """
    signal = start.copy()
    weights = np.ascontiguousarray(np.moveaxis(rules, -1, 0))
    offsets = [(i, j) for i in range(3) for j in range(3)][:-1]
    # One after another by their nature; the signals of a batch stand last and are computed at once.
    for row in range(signal.shape[0] - 2):
        for column in range(signal.shape[1] - 2):
            value = weights[0] * signal[row, column]
            for (i, j), weight in zip(offsets[1:], weights[1:], strict=True):
                value += weight * signal[row + i, column + j]
            signal[row + 2, column + 2] = value
    return signal


def residuals(rules: Rules, signals: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return how badly each rule predicts each signal, as a share of the signal's deviation.

    Args:
        rules: (R, 8).
        signals: (S, T, N).

    Returns:
        float64 (R, N): root mean square of what the rule leaves unexplained, over the deviation.
    """
    windows = np.lib.stride_tricks.sliding_window_view(signals, (3, 3), (0, 1))
    flat = windows.reshape(*windows.shape[:3], 9)
    prediction = np.einsum("rk,stnk->rstn", rules, flat[..., :8])
    missed = np.sqrt(np.square(prediction - flat[..., 8]).mean((1, 2)))
    share: NDArray[np.float64] = missed / signals.std((0, 1))
    return share


def draw_rules(count: int, side: int, rng: np.random.Generator) -> Rules:
    """Return rules (count, 8) that neither diverge nor die out and differ from each other.

    Coefficients are normal and divided by their sum; a candidate is taken if signals of it stay
    within bounds, and if it does not predict the signals of a rule that was taken before, nor they
    its own. The more there are, the less they differ. (The published code ships ten tables that its
    authors screened.)

    Args:
        count: How many.
        side: Of the signals on which candidates are tried.
        rng: Source of candidates and signals.
    """
    rules = np.empty((0, 8))
    signals = np.empty((side - _SKIPPED, side - _SKIPPED, 0))
    least = _LEAST_RESIDUAL
    while len(rules) < count:
        before = len(rules)
        for candidate, signal in _stable(side, rng):
            apart = np.concatenate(
                [residuals(candidate[None], signals)[0], residuals(rules, signal)[:, 0]]
            )
            if len(rules) < count and np.all(apart >= least):
                rules = np.concatenate([rules, candidate[None]])
                signals = np.concatenate([signals, signal], axis=2)
        if len(rules) == before:
            least *= _RELAXED
    return rules


def _stable(side: int, rng: np.random.Generator) -> Iterator[tuple[Rules, NDArray[np.float64]]]:
    """Yield those of some drawn rules (8,) that are stable, each with a signal (S, S, 1)."""
    candidates = rng.standard_normal((_CANDIDATES, 8))
    candidates /= candidates.sum(1, keepdims=True)
    start = rng.standard_normal((side, side, _CANDIDATES))
    with np.errstate(over="ignore", invalid="ignore"):  # most diverge, which is what is asked
        tried = scan(candidates, start)[_SKIPPED:, _SKIPPED:]
        half = len(tried) // 2
        stable = np.abs(tried).max((0, 1)) <= _LARGEST
        stable &= tried[half:, half:].std((0, 1)) >= _SMALLEST
    for index in np.flatnonzero(stable):
        yield candidates[index], tried[..., index, None]


def signals_of(
    rules: Rules, height: int, width: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Return signals (B, C, height, width) of rules (B, C, 8), each from a start of its own."""
    shape = (height + _SKIPPED, width + _SKIPPED, *rules.shape[:2])
    signal = scan(rules, rng.standard_normal(shape))[_SKIPPED:, _SKIPPED:]
    return signal.transpose(2, 3, 0, 1)


@ATTACKS.register(paper="arXiv:2206.03693")
@dataclass(frozen=True, slots=True, kw_only=True)
class Autoregressive:
    """Adds noise to all training images whose pixels follow from neighbours by the class's rule.

    An availability attack without a network: success is lost accuracy on clean test images. Each
    class has a 3x3 rule per channel, and each image a signal of its own; a convolution tells them
    apart, and a network need not learn more.

    Attributes:
        l2: Length of a signal before clipping, in units of [0, 1]; the published 1.0 is for images
            of 3x32x32. There is no bound on one byte.
    """

    l2: float = 1.0

    goal: ClassVar[Goal] = "availability"
    target_field: ClassVar[str | None] = None
    example: ClassVar[Mapping[str, Any]] = {}

    def __post_init__(self) -> None:
        if not 0 < self.l2 < float("inf"):
            raise DataError(f"l2 is a length above 0; got {self.l2}.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Accept any images."""

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that all rows may change, labels kept; the bound is on the length of a signal."""
        return Bounds(rows=len(train), eps_255=None, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Draw the rules and add a signal to every row."""
        self.check(train, test)
        seed = subseed(rng)
        channels, height, width = train.image_shape
        side = max(height, width) + _SKIPPED
        # Rules of one channel only have to differ: a class is told by any of its channels.
        rules = np.stack(
            [
                draw_rules(train.num_classes, side, stream(seed, "rules", c))
                for c in range(channels)
            ],
            axis=1,
        )

        def draw(labels: NDArray[np.int64], batch: int) -> NDArray[np.float64]:
            return signals_of(rules[labels], height, width, stream(seed, "signals", batch))

        return PoisonedSet(add_patterns(train, draw, self.l2), train.ids, (), self.goal)
