"""Poison success of each target."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from harness.report import observations as obs
from harness.report.panels import (
    defense_looks,
    defenses_of,
    headline,
    legend,
    panels,
    percent_ticks,
    titles,
)
from harness.report.style import INK, SUCCESS_MAP, Look
from harness.report.summary import Duel, Summary

_MOST_DOTS = 60
"""Marks in one panel; more than that become squares too."""

_SQUARE = (0.27, 0.23)  # inches: room for a target's number, and for a defense's name


def per_target(summary: Summary) -> Figure | None:
    """Success per target of triggered attacks, as dots over seeds."""
    duels = [d for d in summary.duels if len(_targets(d)) > 1 and not _as_squares(d)]
    if not duels:
        return None
    figure, axes = panels(len(duels))
    style = defense_looks(summary)
    for ax, duel in zip(axes, duels, strict=True):
        _target_dots(ax, duel, style)
    legend(figure, style, defenses_of(duels), lines=False)
    return figure


def target_squares(summary: Summary) -> Figure | None:
    """Success per target and defense as squares: targeted attacks, and those with many targets."""
    duels = [d for d in summary.duels if len(_targets(d)) > 1 and _as_squares(d)]
    if not duels:
        return None
    figure, axes = panels(len(duels), columns=1)
    widest = max(len(_targets(d)) for d in duels)
    heights = [1.25 + _SQUARE[1] * len(_drawn(d)) for d in duels]
    figure.set_size_inches(max(6.0, 4.1 + _SQUARE[0] * widest), sum(heights))
    axes[0].get_gridspec().set_height_ratios(heights)  # type: ignore[union-attr]
    for ax, duel in zip(axes, duels, strict=True):
        _target_matrix(ax, duel)
    return figure


def _as_squares(duel: Duel) -> bool:
    return duel.goal == "targeted" or len(_targets(duel)) * len(_drawn(duel)) > _MOST_DOTS


def _drawn(duel: Duel) -> list[str]:
    return [r.defense for r in duel.rows if r.trials]


def _targets(duel: Duel) -> list[int]:
    """Targets with a headline success, ascending."""
    probe, groups = headline(duel), duel.trials.values()
    found = {o.target for g in groups for o in obs.successes(g, probe)} if probe else set()
    return sorted(t for t in found if t is not None)


def _target_dots(ax: Axes, duel: Duel, style: dict[str, Look]) -> None:
    targets, probe = _targets(duel), headline(duel) or ""
    drawn = _drawn(duel)
    for index, defense in enumerate(drawn):
        shift = 0.7 * ((index + 0.5) / len(drawn) - 0.5)
        look = style[defense]
        for target, group in obs.by_target(obs.successes(duel.trials[defense], probe)).items():
            if target is None:
                continue
            x, shares = targets.index(target) + shift, [o.share for o in group]
            if len(shares) > 1:
                ax.plot([x] * len(shares), shares, ".", color=look.colour, alpha=0.55, markersize=5)
            ax.plot(
                x, sum(shares) / len(shares), look.marker, color=look.colour, markersize=6.5,
                markeredgecolor="white", markeredgewidth=0.4, zorder=3,
            )  # fmt: skip
    names = next((t.record.class_names for g in duel.trials.values() for t in g), ())
    titles(ax, duel, "target (adversarial class)", f"success, probe {probe} (%)")
    labels = [f"{t} {names[t]}" if t < len(names) else str(t) for t in targets]
    turned = len(targets) * max(map(len, labels)) > 45
    ax.set_xticks(range(len(targets)), labels, rotation=40 if turned else 0,
                  ha="right" if turned else "center", rotation_mode="anchor")  # fmt: skip
    ax.grid(False, axis="x")
    for edge in range(1, len(targets)):
        ax.axvline(edge - 0.5, color="#e3e3e3", linewidth=0.6)
    ax.set_xlim(-0.5, len(targets) - 0.5)
    ax.yaxis.set_major_formatter(percent_ticks())
    ax.set_ylim(-0.04, 1.04)


def _target_matrix(ax: Axes, duel: Duel) -> None:
    """One square per target and defense: dark where the target was misclassified as wanted."""
    targets, probe = _targets(duel), headline(duel) or ""
    drawn = _drawn(duel)
    shares = np.full((len(drawn), len(targets)), np.nan)
    for row, defense in enumerate(drawn):
        for target, group in obs.by_target(obs.successes(duel.trials[defense], probe)).items():
            if target is not None:
                shares[row, targets.index(target)] = obs.mean(group)
    mesh = ax.pcolormesh(
        np.ma.masked_invalid(shares), cmap=LinearSegmentedColormap.from_list("", SUCCESS_MAP),
        vmin=0, vmax=1, edgecolors="white", linewidth=1.5,
    )  # fmt: skip
    what = "image" if duel.goal == "targeted" else "class"
    titles(ax, duel, f"target {what}; right: success on all {len(targets)} (%)", "")
    rows = {r.defense: r for r in duel.rows}
    means = [r.headline.success.value if (r := rows[d]).headline else None for d in drawn]
    for row, mean in enumerate(means):
        ax.text(
            len(targets) + 0.25, row + 0.5, "" if mean is None else f"{100 * mean:.0f}",
            fontsize=7.5, va="center", ha="left",
        )  # fmt: skip
    bare = sum(not rows[d].defended for d in drawn)
    ax.axhline(bare, color=INK, linewidth=1)  # below it the defenses
    ax.set_yticks(np.arange(len(drawn)) + 0.5, drawn)
    ax.invert_yaxis()
    every = -(-len(targets) // 40)  # a longer row numbers every second, third … target
    shown = range(0, len(targets), every)
    ax.set_xticks([i + 0.5 for i in shown], [str(targets[i]) for i in shown],
                  rotation=90 if targets[-1] > 99 else 0)  # fmt: skip
    ax.tick_params(length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = ax.figure.colorbar(mesh, ax=ax, fraction=0.04, pad=0.06, aspect=16)
    bar.set_label("success, mean over seeds (%)", fontsize=7.5)
    bar.ax.yaxis.set_major_formatter(percent_ticks())
