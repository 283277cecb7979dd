"""Poison success against the magnification of the trigger."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter

from harness.report.panels import (
    defense_looks,
    defenses_of,
    draw_line,
    legend,
    panels,
    percent_ticks,
    titles,
)
from harness.report.statistics import Interval
from harness.report.style import FLOOR
from harness.report.summary import Row, Summary


def magnification(summary: Summary) -> Figure | None:
    """Success against the magnification of the trigger at test time."""
    duels = [d for d in summary.duels if any(len(_magnified(r)) > 1 for r in d.rows)]
    if not duels:
        return None
    figure, axes = panels(len(duels))
    style, floored = defense_looks(summary), False
    for ax, duel in zip(axes, duels, strict=True):
        drawn = [r for r in duel.rows if _magnified(r)]
        for index, row in enumerate(drawn):
            steps, successes = zip(*_magnified(row), strict=True)
            # A little aside, so that bars of equal height do not hide each other.
            shifted = np.array(steps) + 0.02 * (index - (len(drawn) - 1) / 2)
            draw_line(ax, shifted, successes, style[row.defense])
        floored |= _floor_line(ax, drawn)
        titles(ax, duel, "magnification of the trigger", "poison success (%)")
        ax.xaxis.set_major_locator(
            FixedLocator(sorted({s for r in drawn for s, _ in _magnified(r)}))
        )
        ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"x{x:g}"))
        ax.yaxis.set_major_formatter(percent_ticks())
        ax.set_ylim(-0.04, 1.04)
    legend(figure, style, defenses_of(duels), lines=True, floor=floored)
    return figure


def _magnified(row: Row) -> list[tuple[float, Interval]]:
    """(magnification, success) of the probes ``x1``, ``x2`` …, in ascending order."""
    found = []
    for probe in row.probes:
        match = re.fullmatch(r"x(\d+(?:\.\d+)?)", probe.name)
        if match:
            found.append((float(match[1]), probe.success))
    return sorted(found, key=lambda pair: pair[0])


def _floor_line(ax: Axes, rows: Sequence[Row]) -> bool:
    """Draw the clean floor; return whether there is one."""
    bare = next((r for r in rows if not r.defended), None)
    if bare is None:
        return False
    names = {p.name: p.floor for p in bare.probes if p.floor is not None}
    steps = [(step, names.get(f"x{step:g}")) for step, _ in _magnified(bare)]
    known = [(step, floor) for step, floor in steps if floor is not None]
    if known:
        x, y = zip(*known, strict=True)
        ax.plot(x, y, **FLOOR)
    return bool(known)
