"""Accuracy and poison success over the epochs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.report.panels import (
    defense_looks,
    defenses_of,
    legend,
    panels,
    percent_ticks,
    titles,
)
from harness.report.summary import Duel, Summary
from harness.report.trials import Trial, natural_key


def training_curves(summary: Summary) -> Figure | None:
    """Test accuracy, and success where it was followed, over the epochs: means over trials."""
    drawn = [
        (duel, name)
        for duel in summary.duels
        for name in _curve_names(duel)
    ]  # fmt: skip
    if not drawn:
        return None
    figure, axes = panels(len(drawn))
    style = defense_looks(summary)
    for ax, (duel, name) in zip(axes, drawn, strict=True):
        for defense, trials in duel.trials.items():
            curve = _mean_curve(trials, name)
            if curve is not None:
                look = style[defense]
                epochs = np.arange(1, len(curve) + 1)
                ax.plot(
                    epochs, curve, color=look.colour, linestyle=look.dash, marker=look.marker,
                    markersize=3.5, markevery=max(1, len(curve) // 10),
                )  # fmt: skip
        what = "test accuracy" if name == "test_accuracy" else name.replace("_", ", probe ")
        titles(ax, duel, "epoch", f"{what} (%)")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        ax.yaxis.set_major_formatter(percent_ticks())
        if name != "test_accuracy":
            ax.set_ylim(-0.04, 1.04)
    legend(figure, style, defenses_of([d for d, _ in drawn]), lines=True)
    return figure


def _curve_names(duel: Duel) -> list[str]:
    """``test_accuracy`` and the followed probes, of which at least two epochs are there."""
    found = {
        name
        for trials in duel.trials.values()
        for t in trials
        for name, curve in t.record.curves.items()
        if t.ok and len(curve) > 1 and (name == "test_accuracy" or name.startswith("success_"))
    }
    return sorted(found, key=lambda name: (name != "test_accuracy", natural_key(name)))


def _mean_curve(trials: Sequence[Trial], name: str) -> np.ndarray | None:
    """Mean over the finished trials, up to the last epoch that all of them have."""
    curves = [t.record.curves[name] for t in trials if t.ok and t.record.curves.get(name)]
    if not curves:
        return None
    length = min(map(len, curves))
    stacked: np.ndarray = np.asarray([curve[:length] for curve in curves]).mean(axis=0)
    return stacked
