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
from harness.report.style import Look
from harness.report.summary import Duel, Summary

# From a grey that is seen on white (measured, no success) to a dark blue; not measured is white.
_BLUES = LinearSegmentedColormap.from_list("success", ["#e4e7eb", "#6ba3d0", "#08306b"])


def per_target(summary: Summary) -> Figure | None:
    """Success per target: triggered attacks as dots over seeds, targeted ones as a matrix."""
    duels = [d for d in summary.duels if len(_targets(d)) > 1]
    if not duels:
        return None
    figure, axes = panels(len(duels))
    style = defense_looks(summary)
    for ax, duel in zip(axes, duels, strict=True):
        if duel.goal == "targeted":
            _target_matrix(ax, duel)
        else:
            _target_dots(ax, duel, style)
    dotted = [d for d in duels if d.goal != "targeted"]
    if dotted:
        legend(figure, style, defenses_of(dotted), lines=False)
    return figure


def _targets(duel: Duel) -> list[int]:
    """Targets with a headline success, ascending."""
    probe, groups = headline(duel), duel.trials.values()
    found = {o.target for g in groups for o in obs.successes(g, probe)} if probe else set()
    return sorted(t for t in found if t is not None)


def _target_dots(ax: Axes, duel: Duel, style: dict[str, Look]) -> None:
    targets, probe = _targets(duel), headline(duel) or ""
    drawn = [r.defense for r in duel.rows if r.trials]
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
    drawn = [r.defense for r in duel.rows if r.trials]
    shares = np.full((len(drawn), len(targets)), np.nan)
    for row, defense in enumerate(drawn):
        for target, group in obs.by_target(obs.successes(duel.trials[defense], probe)).items():
            if target is not None:
                shares[row, targets.index(target)] = obs.mean(group)
    mesh = ax.pcolormesh(np.ma.masked_invalid(shares), cmap=_BLUES, vmin=0, vmax=1,
                         edgecolors="white", linewidth=1.5)  # fmt: skip
    titles(ax, duel, f"target ({len(targets)})", "")
    ax.set_yticks(np.arange(len(drawn)) + 0.5, drawn)
    ax.invert_yaxis()
    if len(targets) <= 30:
        ax.set_xticks(np.arange(len(targets)) + 0.5, [str(t) for t in targets],
                      rotation=90 if len(targets) > 12 else 0)  # fmt: skip
    else:
        ax.set_xticks([])
    ax.tick_params(length=0)
    ax.grid(False)
    for spine in ax.spines.values():
        spine.set_visible(False)
    bar = ax.figure.colorbar(mesh, ax=ax, shrink=0.8, aspect=12)
    bar.set_label("success, mean over seeds (%)", fontsize=7.5)
    bar.ax.yaxis.set_major_formatter(percent_ticks())
