"""Figures of what purification does to clean and poisoned images, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from harness.core.files import write_aside
from harness.report.figures import Drawing, _stored
from harness.report.panels import panels
from harness.report.style import FAINT, INK, RC, UNDEFENDED, looks

if TYPE_CHECKING:  # a report needs no torch
    from generative.trajectory import Curve, Trajectory

_CLEAN, _POISON, _FREED = (look.colour for look in looks("abc", ()).values())
_DASHES = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))


def distances(found: Trajectory, unit: str) -> Figure:
    """Three distances against the step count, with bands of two standard errors.

    Args:
        found: What was measured.
        unit: What is counted: ``"Langevin steps"``.
    """
    from generative.trajectory import band

    figure, (ax,) = panels(1)
    curves = (
        ("clean → purified clean", found.clean_moved, _CLEAN),
        ("poison → purified poison", found.poison_moved, _POISON),
        ("clean → purified poison", found.clean_to_poison, _FREED),
    )
    for (label, values, colour), dash in zip(curves, _DASHES, strict=True):
        line = band(values)
        low, high = line.mean - 2 * line.error, line.mean + 2 * line.error
        ax.fill_between(found.steps, low, high, color=colour, alpha=0.2, linewidth=0)
        ax.plot(
            found.steps, line.mean, color=colour, linestyle=dash, marker="o", markersize=3,
            label=label,
        )  # fmt: skip
    crossings = (
        (found.freed, "purified poison nearer to clean than to poison", 0.07),
        (found.outmoved or None, "poisons move further than clean images", 0.2),  # 0: they begin so
    )
    for step, text, height in crossings:
        if step is not None:
            _mark(ax, step, found.steps, found.poison_moved, text, height)
    _dress(ax, len(found.clean_moved[0]), unit, "L2 distance, pixels in [0, 1]")
    ax.set_title("How far images move\n", fontsize=9.5)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _mark(
    ax: Axes, step: float, steps: Sequence[int], curve: Curve, text: str, height: float
) -> None:
    """Circle a crossing, and say below the curves, at a share of the panel's height, what it is."""
    y = float(np.interp(step, steps, curve.mean(1)))
    ax.plot([step], [y], marker="o", markersize=8, color=INK, markerfacecolor="none", zorder=5)
    ax.annotate(
        f"from step {step:.0f} on: {text}", (step, y), (0.98, height), textcoords=ax.transAxes,
        fontsize=8, color=INK, ha="right", va="center", zorder=6,
        arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkB": 5,
                    "relpos": (0, 0.5)},
    )  # fmt: skip


def energies(found: Trajectory, unit: str, index: int = -1) -> Figure | None:
    """Histograms of the energies of clean, poisoned and purified images; None without energies.

    Args:
        found: What was measured.
        unit: What is counted.
        index: Of the step count after which the purified images are shown.
    """
    if found.energy_clean is None or found.energy_poison is None:
        return None
    figure, (ax,) = panels(1)
    after = f"{found.steps[index]} {unit}"
    groups = (
        ("clean", found.energy_clean[0], UNDEFENDED, "-", 0.0),
        ("poisoned", found.energy_poison[0], _POISON, "-", 0.3),
        (f"poisoned, after {after}", found.energy_poison[index], _FREED, "-", 0.3),
        (f"clean, after {after}", found.energy_clean[index], _CLEAN, _DASHES[1], 0.0),
    )
    edges = _edges(np.concatenate([values for _, values, *_ in groups]))
    for label, values, colour, dash, fill in groups:
        share = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
        if fill:
            ax.stairs(share, edges, fill=True, color=colour, alpha=fill)
        ax.stairs(share, edges, color=colour, linestyle=dash, linewidth=1.6, label=label)
        ax.plot(values.mean(), -0.03, marker="^", color=colour, markersize=6, clip_on=False,
                transform=ax.get_xaxis_transform(), zorder=5)  # fmt: skip
    _dress(ax, len(found.energy_clean[0]), "energy (lower is more natural); ▲ mean", "images (%)")
    ax.set_title("How natural images are\n", fontsize=9.5)
    ax.set_ylim(bottom=0)
    ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
    ax.tick_params(axis="x", pad=7)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _edges(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return bin edges over all but the outermost 1 % of the values at either end.

    What lies outside is counted in the outermost bins.
    """
    low, high = np.percentile(values, [1, 99])
    return np.linspace(low, high, 25)


def _dress(ax: Axes, count: int, x: str, y: str) -> None:
    ax.text(0, 1.02, f"n = {count} images", transform=ax.transAxes, fontsize=7.5, color=FAINT,
            va="bottom")  # fmt: skip
    ax.set_xlabel(x)
    ax.set_ylabel(y)


def draw(found: Trajectory, unit: str, shown: int | None = None) -> list[Drawing]:
    """Draw what there is: distances, and energies where they were measured.

    Args:
        found: What was measured.
        unit: What is counted.
        shown: Step count after which the energies are shown; the last where that was not measured.
    """
    drawings = []
    with rc_context(RC):
        caption = (
            "Means over images; bands are two standard errors. Clean and poisoned images have the "
            "same noise. Where the purified poison is nearer to the clean image than to the "
            "poison, most of the poison is gone; what the clean image moves is the price."
        )
        figure = distances(found, unit)
        drawings.append(_stored("distances", "Distances on the way", caption, figure, raster=False))
        index = found.steps.index(shown) if shown in found.steps else -1
        natural = energies(found, unit, index)
        if natural is not None:
            caption = (
                "Purification leads poisoned images back to the energies of clean ones. Triangles "
                "are means; the outermost bins hold all that lies beyond."
            )
            drawings.append(_stored("energies", "Energies", caption, natural, raster=False))
    return drawings


def write(drawings: list[Drawing], folder: Path) -> list[Path]:
    """Write each figure as SVG and PNG, and return the files."""
    files = []
    for drawing in drawings:
        for form, content in (("svg", drawing.svg.encode()), ("png", drawing.png)):
            path = folder / f"{drawing.name}.{form}"
            write_aside(path, partial(_put, content=content))
            files.append(path)
    return files


def _put(path: Path, content: bytes) -> None:
    path.write_bytes(content)
