"""What a defense costs beside what it brings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from harness.report.panels import (
    defense_looks,
    defenses_of,
    error_bars,
    headline,
    legend,
    panels,
    percent_ticks,
    titles,
)
from harness.report.pareto import front
from harness.report.statistics import Interval
from harness.report.style import BARE, FAINT, FLOOR, Look
from harness.report.summary import Duel, Row, Summary

_TICKS = (1.0, 2.0, 5.0)  # of each decade


def cost(summary: Summary) -> Figure | None:
    """Seconds of purification and training against success, and against the accuracy lost."""
    duels = [d for d in summary.duels if sum(bool(_success(r) and seconds(r)) for r in d.rows) > 2]
    if not duels:
        return None
    figure, axes = panels(2 * len(duels), columns=2)
    style, floored = defense_looks(summary), False
    for index, duel in enumerate(duels):
        left, right = axes[2 * index : 2 * index + 2]
        _panel(left, duel, _success, style)
        titles(left, duel, "purify + train (s)", f"success, probe {headline(duel)} (%)")
        left.yaxis.set_major_formatter(percent_ticks())
        left.set_ylim(-0.04, 1.04)
        floor = next((r.headline.floor for r in duel.rows if r.headline), None)
        if floor is not None:
            left.axhline(floor, **FLOOR)
            floored = True
        _panel(right, duel, _lost, style)
        titles(right, duel, "purify + train (s)", "accuracy lost (points)")
        right.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:g}"))
        right.margins(y=0.15)
    legend(figure, style, defenses_of(duels), lines=False, floor=floored)
    return figure


def cost_caption(summary: Summary) -> str:
    """Say what to look for, and on which machine the seconds passed."""
    places = Counter(
        f"{e['processor'] if e['device'] == 'cpu' else e['device']}, {e['threads']} "
        f"thread{'s' if e['threads'] != 1 else ''}"
        for duel in summary.duels
        for trials in duel.trials.values()
        for e in (t.record.environment for t in trials)
        if {"processor", "device", "threads"} <= e.keys()
    )
    where = (
        f" Measured on {'; '.join(place for place, _ in places.most_common(3))}, under the load "
        "of the run."
    )
    return (
        "Down and to the left is better. One mark per defense: mean seconds of one trial for "
        "purification (what it took when it was made, also where a trial found it in the store) "
        "and training together, without crafting and without the training of generators. The "
        "grey steps join the defenses with credit that none beats in both: what a longer wait "
        "buys. Hollow marks earn no credit; the dashed line is the undefended, the dotted one what "
        "a clean model shows; bars are 95 % intervals, those of accuracy lost over pairs with the "
        "same poison and seeds."
        f"{where if places else ''}"
    )


def seconds(row: Row) -> float | None:
    """Return what purification and training took, mean per trial; None where nothing was timed."""
    total = (row.seconds_purify or 0.0) + (row.seconds_train or 0.0)
    return total if total > 0 else None


def _success(row: Row) -> Interval | None:
    return row.headline.success if row.headline else None


def _lost(row: Row) -> Interval | None:
    """Return the accuracy that a defense costs, paired with the undefended; that loses nothing."""
    if not row.defended:
        return Interval(0.0, None, None, row.trials, "none")
    gained = row.accuracy_delta
    if gained is None:
        return None
    low = None if gained.high is None else -gained.high
    high = None if gained.low is None else -gained.low
    return Interval(-gained.value, low, high, gained.n, gained.method)


def _panel(
    ax: Axes, duel: Duel, effect: Callable[[Row], Interval | None], style: dict[str, Look]
) -> None:
    points = [
        (row, spent, found)
        for row in duel.rows
        if (spent := seconds(row)) is not None and (found := effect(row)) is not None
    ]
    counted = [p for p in points if p[0].credit]
    kept = [counted[i] for i in front([(spent, e.value) for _, spent, e in counted])]
    if len(kept) > 1:
        ax.plot(
            [spent for _, spent, _ in kept], [e.value for *_, e in kept], color=FAINT, linewidth=1,
            drawstyle="steps-post", zorder=1,
        )  # fmt: skip
    ax.set_xscale("log")
    for row, spent, found in points:
        _mark(ax, row, spent, found, style[row.defense])
    bare = next((e for row, _, e in points if not row.defended), None)
    if bare is not None:
        ax.axhline(bare.value, zorder=1, **BARE)
    ax.margins(x=0.12)
    low, high = ax.get_xlim()
    ax.xaxis.set_major_locator(LogLocator(subs=_TICKS if high / low < 300 else (1.0,)))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def _mark(ax: Axes, row: Row, spent: float, found: Interval, look: Look) -> None:
    hollow = row.defended and not row.credit
    ax.errorbar(
        spent, found.value, yerr=error_bars(found), fmt=look.marker, color=look.colour,
        elinewidth=1, capsize=2, markersize=7.5,
        markerfacecolor="white" if hollow else look.colour,
        markeredgecolor=look.colour if hollow else "white",
        markeredgewidth=1.2 if hollow else 0.4, zorder=3 if row.defended else 4,
    )  # fmt: skip
