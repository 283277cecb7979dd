"""Natural accuracy against poison success."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from harness.report.panels import (
    defense_looks,
    defenses_of,
    error_bars,
    legend,
    panels,
    percent_ticks,
    titles,
)
from harness.report.pareto import front
from harness.report.style import FAINT, FLOOR, Look
from harness.report.summary import Row, Summary

_TICKS = (0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 1)


def tradeoff(summary: Summary) -> Figure | None:
    """Natural accuracy against poison success, one panel per attack, with the Pareto front."""
    duels = [d for d in summary.duels if any(r.headline and r.accuracy for r in d.rows)]
    if not duels:
        return None
    figure, axes = panels(len(duels))
    style, floored = defense_looks(summary), False
    for ax, duel in zip(axes, duels, strict=True):
        rows = [r for r in duel.rows if r.headline and r.accuracy]
        _front(ax, [r for r in rows if r.credit or not r.defended])
        floor = next((r.headline.floor for r in rows if r.headline), None)
        if floor is not None:
            ax.axvline(floor, **FLOOR)
            floored = True
        for row in rows:
            _point(ax, row, style[row.defense])
        headline = next(r.headline.name for r in rows if r.headline)
        titles(ax, duel, f"poison success, probe {headline} (%)", "natural accuracy (%)")
        _square_root_axis(ax)
        ax.yaxis.set_major_formatter(percent_ticks())
        ax.margins(y=0.15)
    legend(figure, style, defenses_of(duels), lines=False, floor=floored)
    return figure


def _point(ax: Axes, row: Row, look: Look) -> None:
    if row.headline is None or row.accuracy is None:
        return
    success, accuracy = row.headline.success, row.accuracy
    hollow = row.defended and not row.credit
    ax.errorbar(
        success.value, accuracy.value, xerr=error_bars(success), yerr=error_bars(accuracy),
        fmt=look.marker, color=look.colour, ecolor=look.colour, elinewidth=1, capsize=2,
        markersize=7.5, markerfacecolor="white" if hollow else look.colour,
        markeredgecolor=look.colour if hollow else "white",
        markeredgewidth=1.2 if hollow else 0.4, zorder=3 if row.defended else 4,
    )  # fmt: skip


def _front(ax: Axes, rows: Sequence[Row]) -> None:
    """Join the points that no other one beats in both success and accuracy.

    What earns no credit is no choice, so it is left out; doing nothing is one.
    """
    points = [
        (r.headline.success.value, -r.accuracy.value) for r in rows if r.headline and r.accuracy
    ]
    kept = front(points)
    if len(kept) > 1:
        x, y = zip(*(points[i] for i in kept), strict=True)
        ax.plot(x, np.negative(y), color=FAINT, linewidth=1.2, linestyle=(0, (4, 2)), zorder=1)


def _square_root_axis(ax: Axes) -> None:
    """Spread the low rates, where defenses differ, and keep 0, which a logarithm has not."""
    ax.set_xscale("function", functions=(_signed_root, _signed_square))
    ax.set_xlim(-0.0008, 1.05)
    ax.xaxis.set_major_locator(FixedLocator(_TICKS))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(percent_ticks())


def _signed_root(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(x) * np.sqrt(np.abs(x)))


def _signed_square(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(x) * np.square(x))
