"""What the charts share: panels, titles, legends, ticks, error bars."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Iterable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy.typing import NDArray

from harness.report.flags import DEAD
from harness.report.statistics import Interval
from harness.report.style import FAINT, FLOOR, UNDEFENDED, Look, looks
from harness.report.summary import Duel, Row, Summary

_PANEL = (4.2, 3.2)  # inches; three in a row fill a page
_ENTRY = 0.18  # inches: height of a line of the legend
_LETTERS_PER_INCH = 18  # of 7.5 points


def panels(count: int, columns: int | None = None) -> tuple[Figure, list[Axes]]:
    """Return a figure with ``count`` panels.

    Args:
        count: How many.
        columns: Panels in a row; two or three unless given.
    """
    width = 1.35 if count == 1 else 1.0  # one panel alone needs room for its legend
    columns = min(count, columns or (3 if count > 4 or count == 3 else 2))
    rows = math.ceil(count / columns)
    size = (_PANEL[0] * columns * width, _PANEL[1] * rows + 0.5)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.06))
    grid = figure.subplots(rows, columns, squeeze=False)
    flat = list(grid.flat)
    for spare in flat[count:]:
        spare.set_visible(False)
    return figure, flat[:count]


def defense_looks(summary: Summary) -> dict[str, Look]:
    """Return the look of every defense of the run."""
    return looks(summary.defenses, {r.defense for r in summary.rows if not r.defended})


def defenses_of(duels: Iterable[Duel]) -> list[str]:
    """Labels that appear, the undefended first."""
    rows = sorted((r for d in duels for r in d.rows if r.trials), key=lambda r: r.defended)
    return list(dict.fromkeys(r.defense for r in rows))


def headline(duel: Duel) -> str | None:
    """Return the name of the headline probe, or None without probes."""
    return next((r.headline.name for r in duel.rows if r.headline), None)


def is_dead(duel: Duel) -> bool:
    """Return whether the attack does nothing undefended."""
    return any(DEAD in row.flags for row in duel.rows)


def titles(ax: Axes, duel: Duel, x: str, y: str) -> None:
    """Title a panel with its attack, setting and trials per defense, and name its axes."""
    headings(ax, duel.attack, [], [duel], duel.rows)
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def headings(
    ax: Axes, heading: str, facts: Sequence[str], duels: Sequence[Duel], rows: Iterable[Row]
) -> None:
    """Title a panel: a heading, and below it facts, setting and trials per defense.

    Args:
        ax: The panel.
        heading: Its first line.
        facts: What else to say in the second.
        duels: What is shown, all of one setting; said where every attack of them is dead.
        rows: What is drawn, whose trials are counted.
    """
    dead = " (dead attack)" if all(map(is_dead, duels)) else ""
    counts = sorted({r.trials for r in rows if r.trials})
    trials = "\u00a0to\u00a0".join(map(str, [counts[0], counts[-1]][: len(counts)]))
    setting = (part for part in duels[0].setting if part)
    below = ", ".join([*(fact for fact in facts if fact), *setting, f"n\u00a0=\u00a0{trials}"])
    lines = textwrap.wrap(below, _letters(ax), break_on_hyphens=False)
    # The title keeps the room for the lines below it; they take no part in the layout, which would
    # make the panel narrower for a long one.
    ax.set_title(f"{heading}{dead}" + "\n" * len(lines), fontsize=9.5)
    ax.annotate(
        "\n".join(lines), (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points",
        fontsize=7.5, color=FAINT, va="bottom",
    ).set_in_layout(False)  # fmt: skip


def _letters(ax: Axes) -> int:
    """Return how many small letters fit above a panel."""
    place = ax.get_subplotspec()
    columns = place.get_gridspec().ncols if place else 1
    return max(20, int(_LETTERS_PER_INCH * (ax.figure.bbox.width / ax.figure.dpi / columns - 0.8)))


def legend(
    figure: Figure,
    style: dict[str, Look],
    names: Sequence[str],
    *,
    lines: bool,
    floor: bool = False,
    more: Sequence[Line2D] = (),
) -> None:
    """Put one legend below all panels.

    Args:
        figure: To put it in.
        style: Look of each defense.
        names: Defenses that are drawn.
        lines: Whether they are drawn as lines, not as points.
        floor: Whether the clean floor is drawn.
        more: Further entries.
    """
    handles = [
        Line2D([], [], color=style[n].colour, marker=style[n].marker,
               label=f"{n} (undefended)" if style[n].colour == UNDEFENDED else n,
               linestyle=style[n].dash if lines else "none")
        for n in names
    ]  # fmt: skip
    if floor:
        handles.append(Line2D([], [], **FLOOR, label="clean floor"))
    handles += more
    longest = max(len(str(h.get_label())) for h in handles)
    fitting = max(1, int(figure.get_size_inches()[0] / (0.55 + 0.075 * longest)))
    rows = math.ceil(len(handles) / fitting)  # then as even as that many rows allow
    columns = math.ceil(len(handles) / rows)
    width, height = figure.get_size_inches()
    figure.set_size_inches(width, height + _ENTRY * max(0, rows - 2))  # panels keep their size
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)


def draw_line(
    ax: Axes, x: Sequence[float] | NDArray[np.float64], intervals: Sequence[Interval], look: Look
) -> None:
    """Draw a line of estimates with their error bars."""
    bars = np.array([[side[0] for side in error_bars(i)] for i in intervals]).T
    ax.errorbar(
        x, [i.value for i in intervals], yerr=bars, color=look.colour, marker=look.marker,
        linestyle=look.dash, elinewidth=0.9, capsize=2, markeredgecolor="white",
        markeredgewidth=0.4,
    )  # fmt: skip


def number_axis(ax: Axes, values: Sequence[float]) -> None:
    """Put the ticks of the horizontal axis at the values, on a log scale where they span decades.

    Args:
        ax: The panel.
        values: Ascending, at least two.
    """
    if is_wide(values):
        ax.set_xscale("log")
    ax.xaxis.set_major_locator(FixedLocator(values))
    ax.xaxis.set_minor_locator(NullLocator())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:g}"))


def is_wide(values: Sequence[float]) -> bool:
    """Whether positive values span more than a decade and a half."""
    return values[0] > 0 and values[-1] / values[0] > 30


def percent_ticks() -> FuncFormatter:
    """Label shares in [0, 1] as percent."""
    return FuncFormatter(lambda share, _: f"{100 * share:g}" if -1e-9 < share < 1 + 1e-9 else "")


def error_bars(interval: Interval) -> tuple[list[float], list[float]]:
    """Lengths of an error bar below and above, as matplotlib wants them."""
    low = interval.value if interval.low is None else interval.low
    high = interval.value if interval.high is None else interval.high
    return [interval.value - low], [high - interval.value]
