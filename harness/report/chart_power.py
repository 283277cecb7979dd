"""Success against the attacker's power: the bound, the budget, or another number of an attack."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.report.panels import (
    defense_looks,
    defenses_of,
    draw_line,
    headings,
    headline,
    is_dead,
    is_wide,
    legend,
    number_axis,
    panels,
    percent_ticks,
)
from harness.report.statistics import Interval
from harness.report.style import FLOOR, Look
from harness.report.summary import Duel, Row, Summary
from harness.report.varied import Family, lines, shared


def power(summary: Summary) -> Figure | None:
    """Success of an attack against each of its varied numbers, one line per defense.

    Availability attacks have no success: natural accuracy stands for it.
    """
    drawn = list(_families(summary))
    if not drawn:
        return None
    figure, axes = panels(len(drawn))
    style, floored = defense_looks(summary), False
    for ax, family in zip(axes, drawn, strict=True):
        floored |= _panel(ax, family, style)
    duels = [duel for family in drawn for duel in family.members.values()]
    legend(figure, style, defenses_of(duels), lines=True, floor=floored)
    return figure


def _families(summary: Summary) -> Iterator[Family[Duel]]:
    """Yield the attacks of a setting that differ in one number."""
    for setting in dict.fromkeys(d.setting for d in summary.duels):
        attacked = [d for d in summary.duels if d.setting == setting and d.goal != "none"]
        # A number that differs between the trials of one duel is its target.
        items = [
            (shared([t.record.spec["attack"] for group in d.trials.values() for t in group]), d)
            for d in attacked
        ]
        yield from lines(items)


def _panel(ax: Axes, family: Family[Duel], style: dict[str, Look]) -> bool:
    """Draw one attack; return whether its clean floor is drawn."""
    duels = list(family.members.values())
    values = [key[0] for key in family.members]
    names = defenses_of(duels)
    for index, defense in enumerate(names):
        points = [
            (value, interval)
            for value, duel in zip(values, duels, strict=True)
            if (interval := _measured(duel, defense)) is not None
        ]
        if points:
            x, intervals = zip(*points, strict=True)
            aside = (index - (len(names) - 1) / 2) / max(1, len(names) - 1)
            draw_line(ax, _shifted(x, values, aside), intervals, style[defense])
    rows: list[Row] = [row for duel in duels for row in duel.rows]
    dead = [value for value, duel in zip(values, duels, strict=True) if is_dead(duel)]
    some = f"no attack at {', '.join(f'{v:g}' for v in dead)}" if len(dead) < len(duels) else ""
    headings(ax, family.name, [family.fixed, some if dead else ""], duels, rows)
    ax.set_xlabel(family.keys[0])
    probe = next((p for p in map(headline, duels) if p), None)
    ax.set_ylabel(f"poison success, probe {probe} (%)" if probe else "natural accuracy (%)")
    number_axis(ax, values)
    ax.yaxis.set_major_formatter(percent_ticks())
    ax.set_ylim(-0.04, 1.04)
    floors = [(v, f) for v, d in zip(values, duels, strict=True) if (f := _floor(d)) is not None]
    if floors:
        ax.plot(*zip(*floors, strict=True), **FLOOR)
    return bool(floors)


def _measured(duel: Duel, defense: str) -> Interval | None:
    row = next((r for r in duel.rows if r.defense == defense and r.trials), None)
    if row is None:
        return None
    if duel.goal == "availability":
        return row.accuracy
    return row.headline.success if row.headline else None


def _floor(duel: Duel) -> float | None:
    return next((r.headline.floor for r in duel.rows if r.headline), None)


def _shifted(x: tuple[float, ...], values: list[float], aside: float) -> NDArray[np.float64]:
    """Put points a little aside, so that bars of equal height do not hide each other.

    Args:
        x: Where they are.
        values: All values of the axis.
        aside: How far, in [-0.5, 0.5].
    """
    if is_wide(values):
        closest = min(b / a for a, b in itertools.pairwise(values))
        return np.asarray(np.array(x) * closest ** (0.12 * aside))
    closest = min(b - a for a, b in itertools.pairwise(values))
    return np.asarray(np.array(x) + 0.12 * aside * closest)
