"""What a defense's own numbers do: accuracy and success against steps, temperature, quality …."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from harness.report.panels import (
    draw_line,
    headings,
    legend,
    number_axis,
    panels,
    percent_ticks,
)
from harness.report.statistics import Interval
from harness.report.style import ACCURACY_MAP, BARE, FLOOR, INK, SUCCESS_MAP, UNDEFENDED, looks
from harness.report.summary import Duel, Row, Summary
from harness.report.varied import Family, flat, grids

_LINE = looks("a", ())["a"]
_CELL = (0.95, 0.62)  # inches
_LARGEST = 10  # cells in a row of a heat map; more have no room for their numbers


@dataclass(frozen=True, slots=True)
class _Panel:
    """One quantity of one defense under one attack."""

    duel: Duel
    family: Family[Row]
    success: bool

    def interval(self, row: Row | None) -> Interval | None:
        """Return the quantity of a row."""
        if row is None:
            return None
        if not self.success:
            return row.accuracy
        return row.headline.success if row.headline else None

    @property
    def cells(self) -> dict[tuple[float, ...], Interval]:
        """The quantity by the values of the varied parameters."""
        found = ((key, self.interval(row)) for key, row in self.family.members.items())
        return {key: interval for key, interval in found if interval is not None}

    @property
    def bare(self) -> Interval | None:
        """The quantity without a defense."""
        return self.interval(self.duel.undefended)

    @property
    def quantity(self) -> str:
        """What is drawn."""
        row = next((r for r in self.family.members.values() if r.headline), None)
        if not self.success or row is None or row.headline is None:
            return "natural accuracy (%)"
        return f"poison success, probe {row.headline.name} (%)"

    def title(self, ax: Axes) -> None:
        """Say which defense this is, against which attack."""
        attack = f"against {self.duel.attack}" if self.duel.goal != "none" else "no attack"
        facts = [attack, self.family.fixed]
        rows = self.family.members.values()
        headings(ax, self.family.name, facts, [self.duel], rows)


def sweep_lines(summary: Summary) -> Figure | None:
    """Success and accuracy against the one number in which a defense's trials differ."""
    drawn = [p for p in _panels(summary) if len(p.family.keys) == 1]
    if not drawn:
        return None
    figure, axes = panels(len(drawn), columns=2)
    floored = False
    for ax, panel in zip(axes, drawn, strict=True):
        values = [key[0] for key in panel.cells]
        if panel.bare is not None:
            ax.axhline(panel.bare.value, **BARE)
            if panel.bare.low is not None and panel.bare.high is not None:
                ax.axhspan(panel.bare.low, panel.bare.high, color=UNDEFENDED, alpha=0.07, lw=0)
        floor = _floor(panel)
        if floor is not None:
            ax.axhline(floor, **FLOOR)
            floored = True
        draw_line(ax, values, list(panel.cells.values()), _LINE)
        panel.title(ax)
        ax.set_xlabel(panel.family.keys[0])
        ax.set_ylabel(panel.quantity)
        number_axis(ax, values)
        ax.yaxis.set_major_formatter(percent_ticks())
        if panel.success:
            ax.set_ylim(-0.04, 1.04)
        else:
            ax.margins(y=0.2)
    bare = [Line2D([], [], **BARE, label="undefended")] if any(p.bare for p in drawn) else []
    legend(figure, {"defense": _LINE}, ["defense"], lines=True, floor=floored, more=bare)
    return figure


def sweep_maps(summary: Summary) -> Figure | None:
    """Success and accuracy as maps over the two numbers in which a defense's trials differ."""
    drawn = [p for p in _panels(summary) if len(p.family.keys) == 2]
    if not drawn:
        return None
    columns = min(2, len(drawn))
    wide = max(len(_axis(p, 0)) for p in drawn)
    tall = max(len(_axis(p, 1)) for p in drawn)
    figure, axes = panels(len(drawn), columns)
    rows = -(-len(drawn) // columns)
    size = (max(4.2, 1.9 + _CELL[0] * wide) * columns, max(2.6, 1.3 + _CELL[1] * tall) * rows)
    figure.set_size_inches(*size)
    low = min(i.low if i.low is not None else i.value for p in drawn for i in _accuracies(p))
    high = max(i.high if i.high is not None else i.value for p in drawn for i in _accuracies(p))
    for ax, panel in zip(axes, drawn, strict=True):
        _map(ax, panel, (0.0, 1.0) if panel.success else (low, max(high, low + 0.02)))
    return figure


def _panels(summary: Summary) -> Iterator[_Panel]:
    """Yield, for each attack and each defense with varied numbers, success and accuracy.

    Where there is no success, accuracy stands alone: such panels come last, so that pairs stay side
    by side.
    """
    for duel in sorted(summary.duels, key=lambda d: d.goal not in ("triggered", "targeted")):
        measured = [r for r in duel.rows if r.trials and r.defended]
        items = [(flat(duel.trials[r.defense][0].record.spec["defense"]), r) for r in measured]
        for family in grids(items):
            for success in (True, False):
                panel = _Panel(duel, family, success)
                if len(panel.cells) > 1:
                    yield panel


def _floor(panel: _Panel) -> float | None:
    """Return the clean floor of a panel of success."""
    row = panel.duel.undefended
    return row.headline.floor if panel.success and row and row.headline else None


def _accuracies(panel: _Panel) -> list[Interval]:
    found = [row.accuracy for row in panel.family.members.values()]
    bare = panel.duel.undefended
    return [i for i in [*found, bare.accuracy if bare else None] if i is not None] or [
        Interval(0.5, 0.0, 1.0, 0, "none")
    ]


def _axis(panel: _Panel, index: int) -> list[float]:
    return sorted({key[index] for key in panel.family.members})


def _map(ax: Axes, panel: _Panel, span: tuple[float, float]) -> None:
    columns, rows = _axis(panel, 0), _axis(panel, 1)
    shares = np.full((len(rows), len(columns)), np.nan)
    for (x, y), interval in panel.cells.items():
        shares[rows.index(y), columns.index(x)] = interval.value
    colours = LinearSegmentedColormap.from_list("", SUCCESS_MAP if panel.success else ACCURACY_MAP)
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(shares), cmap=colours, vmin=span[0], vmax=span[1],
        edgecolors="white", linewidth=1.5,
    )  # fmt: skip
    if len(columns) <= _LARGEST:
        for (x, y), interval in panel.cells.items():
            light = interval.value < span[0] + 0.55 * (span[1] - span[0])
            ax.text(
                columns.index(x) + 0.5, rows.index(y) + 0.5, _said(interval), ha="center",
                va="center", fontsize=7.5, color=INK if light else "white", linespacing=1.25,
            )  # fmt: skip
    panel.title(ax)
    ax.set_xticks(np.arange(len(columns)) + 0.5, [f"{v:g}" for v in columns])
    ax.set_yticks(np.arange(len(rows)) + 0.5, [f"{v:g}" for v in rows])
    ax.set_xlabel(panel.family.keys[0])
    ax.set_ylabel(panel.family.keys[1])
    ax.tick_params(length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.9, aspect=14)
    label = panel.quantity
    if panel.bare is not None:
        bar.ax.axhline(panel.bare.value, **BARE)
        label += f"\n- - undefended {100 * panel.bare.value:.1f}"
    bar.set_label(label, fontsize=7.5)
    bar.ax.yaxis.set_major_formatter(percent_ticks())


def _said(interval: Interval) -> str:
    """Return an estimate and, below it, its interval, in percent."""
    said = f"{100 * interval.value:.1f}"
    if interval.low is None or interval.high is None:
        return said
    return f"{said}\n{100 * interval.low:.0f} to {100 * interval.high:.0f}"
