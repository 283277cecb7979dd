"""Figures of what purification does to clean and poisoned images, step by step."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from harness.core.files import write_aside
from harness.report.figures import Drawing, stored
from harness.report.panels import panels
from harness.report.style import FAINT, FLOOR, INK, RC, UNDEFENDED, looks
from harness.report.trajectory_band import band

if TYPE_CHECKING:  # a report needs no torch
    from generative.trajectory import Curve, Trajectory

_CLEAN, _POISON, _FREED = (look.colour for look in looks("abc", ()).values())
_DASHES = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1.5, 1.5)))


def distances(found: Trajectory, unit: str) -> Figure:
    """Three distances against the step count, with bands of 95 % t intervals.

    Args:
        found: What was measured.
        unit: What is counted: ``"Langevin steps"``.
    """
    figure, (ax,) = panels(1)
    curves = (
        ("clean → purified clean", found.clean_moved, _CLEAN),
        ("poison → purified poison", found.poison_moved, _POISON),
        ("clean → purified poison", found.clean_to_poison, _FREED),
    )
    for (label, values, colour), dash in zip(curves, _DASHES, strict=True):
        line = band(values)
        ax.fill_between(found.steps, line.low, line.high, color=colour, alpha=0.2, linewidth=0)
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
            said = f"from step {step:.0f} on: {text}"
            _mark(ax, step, found.steps, found.poison_moved, said, height)
    if found.nearest:  # at 0 no step brings a poison nearer
        said = f"step {found.nearest}: purified poison nearest to clean"
        _mark(ax, found.nearest, found.steps, found.clean_to_poison, said, 0.33, marker="D")
    _dress(ax, len(found.clean_moved[0]), unit, "L2 distance, pixels in [0, 1]")
    ax.set_title("How far images move\n", fontsize=9.5)
    ax.set_xlim(left=0)
    ax.set_ylim(bottom=0)
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def _mark(
    ax: Axes,
    step: float,
    steps: Sequence[int],
    curve: Curve,
    text: str,
    height: float,
    marker: str = "o",
) -> None:
    """Circle a point of a curve, and say at a share of the panel's height what it is."""
    y = float(np.interp(step, steps, curve.mean(1)))
    ax.plot([step], [y], marker=marker, markersize=8, color=INK, markerfacecolor="none", zorder=5)
    ax.annotate(
        text, (step, y), (0.98, height), textcoords=ax.transAxes,
        fontsize=8, color=INK, ha="right", va="center", zorder=6,
        arrowprops={"arrowstyle": "-", "color": FAINT, "linewidth": 0.8, "shrinkB": 5,
                    "relpos": (0, 0.5)},
        bbox={"facecolor": "white", "alpha": 0.75, "edgecolor": "none", "pad": 1},
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
    after = f"{found.steps[index]} {unit}"
    groups = [
        ("clean", found.energy_clean[0], UNDEFENDED),
        (f"clean, purified by {after}", found.energy_clean[index], _CLEAN),
        (f"poisoned, purified by {after}", found.energy_poison[index], _FREED),
        ("poisoned", found.energy_poison[0], _POISON),
    ]
    if found.energy_noisy is not None:
        groups.append(("clean with noise as large as the poison", found.energy_noisy, FAINT))
    figure = Figure(figsize=(5.67, 1.1 + 0.72 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 1, sharex=True, sharey=True)
    edges = _edges(np.concatenate([values for _, values, _ in groups]))
    clean = found.energy_clean[0].mean()
    for ax, (label, values, colour) in zip(axes, groups, strict=True):
        share = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0] / len(values)
        ax.stairs(share, edges, fill=True, color=colour, alpha=0.35)
        ax.stairs(share, edges, color=colour, linewidth=1.4)
        ax.axvline(clean, **FLOOR)
        ax.plot(values.mean(), -0.1, marker="^", color=colour, markersize=6, clip_on=False,
                transform=ax.get_xaxis_transform(), zorder=5)  # fmt: skip
        ax.text(0.01, 0.97, f"{label}: mean {values.mean():.4g}", transform=ax.transAxes,
                fontsize=8, va="top", color=INK)  # fmt: skip
        ax.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g}")
        ax.yaxis.set_major_locator(MaxNLocator(2))
        ax.tick_params(axis="x", pad=7)
    top = max(float(p.get_data().values.max()) for ax in axes for p in ax.patches)
    axes[0].set_ylim(0, 1.45 * top)  # room for the names
    axes[0].set_title("How natural images are\n", fontsize=9.5)
    _dress(axes[0], len(found.energy_clean[0]), "", "")
    axes[-1].set_xlabel("energy (lower is more natural); ▲ mean, dotted: that of clean images")
    figure.supylabel("images (%)", fontsize=9, color=INK)
    return figure


def _edges(values: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return bin edges over all but the outermost 1 % of the values at either end.

    What lies outside is counted in the outermost bins.
    """
    low, high = np.percentile(values, [1, 99])
    return np.linspace(low, high, 31)


def _dress(ax: Axes, count: int, x: str, y: str) -> None:
    ax.annotate(
        f"n = {count} images", (0, 1), (0, 3), xycoords="axes fraction",
        textcoords="offset points", fontsize=7.5, color=FAINT, va="bottom",
    )  # fmt: skip
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
        figure = distances(found, unit)
        said = _of_distances(found, unit)
        drawings.append(stored("distances", "Distances on the way", said, figure, raster=False))
        index = shown_at(found, shown)
        natural = energies(found, unit, index)
        if natural is not None:
            said = _of_energies(found, unit, index)
            drawings.append(stored("energies", "Energies", said, natural, raster=False))
    return drawings


def shown_at(found: Trajectory, shown: int | None) -> int:
    """Return the index of the step count after which the energies are shown."""
    return found.steps.index(shown) if shown in found.steps else len(found.steps) - 1


def facts(found: Trajectory, unit: str, shown: int | None = None) -> dict[str, Any]:
    """Return, by the name of each figure, what is marked in it, and its caption.

    Args:
        found: What was measured.
        unit: What is counted.
        shown: As for :func:`draw`.
    """
    lowest = found.steps.index(found.nearest)
    said: dict[str, Any] = {
        "distances": {
            "caption": _of_distances(found, unit),
            "images": len(found.clean_moved[0]),
            "minimum": {
                "curve": "clean_to_poison",
                "step": found.nearest,
                "l2": float(found.clean_to_poison[lowest].mean(dtype=np.float64)),
            },
            "crossings": {"freed": found.freed, "outmoved": found.outmoved},
        }
    }
    index = shown_at(found, shown)
    if found.energy_clean is not None and found.energy_poison is not None:
        said["energies"] = {
            "caption": _of_energies(found, unit, index),
            "images": len(found.clean_moved[0]),
            "after_steps": found.steps[index],
            "mean": _mean_energies(found, index),
            "clean_below_purified_below_poisoned": found.ordered(index),
            "told_apart": {"before": found.told_apart(0), "after": found.told_apart(index)},
        }
    return said


def _of_distances(found: Trajectory, unit: str) -> str:
    """Say what the figure shows, and name what is marked in it."""
    lowest = found.clean_to_poison.mean(1, dtype=np.float64).min()
    marked = (
        f"Purified poisons are nearest to their clean images after {found.nearest} {unit} "
        f"(diamond; L2 {lowest:.2f})"
        if found.nearest
        else "No number of steps brings a poison nearer to its clean image"
    )
    freed = (
        "they are never nearer to it than to the poison"
        if found.freed is None
        else f"from step {found.freed:.0f} on they are nearer to it than to the poison (circle)"
    )
    return (
        f"{len(found.clean_moved[0])} images: means, with bands of 95 % t intervals over them. "
        f"Clean and poisoned images have the same noise. {marked}; {freed}. Where the curves "
        "cross, most of the poison is gone; what the clean image moves is the price."
    )


def _mean_energies(found: Trajectory, index: int) -> dict[str, float]:
    groups = {
        "clean": None if found.energy_clean is None else found.energy_clean[0],
        "noisy": found.energy_noisy,
        "poisoned": None if found.energy_poison is None else found.energy_poison[0],
        "poisoned_purified": None if found.energy_poison is None else found.energy_poison[index],
        "clean_purified": None if found.energy_clean is None else found.energy_clean[index],
    }
    return {
        name: float(values.mean(dtype=np.float64))
        for name, values in groups.items()
        if values is not None
    }


def _of_energies(found: Trajectory, unit: str, index: int) -> str:
    """Say what the figure shows, and whether the means stand in the order they should."""
    mean = _mean_energies(found, index)
    numbers = (
        f"clean {mean['clean']:.4g}, purified poisoned {mean['poisoned_purified']:.4g}, poisoned "
        f"{mean['poisoned']:.4g}"
    )
    order = (
        f"The means order clean < purified poisoned < poisoned ({numbers})"
        if found.ordered(index)
        else f"The means do not order clean < purified poisoned < poisoned ({numbers})"
    )
    return (
        f"{len(found.clean_moved[0])} images, purified by {found.steps[index]} {unit}. {order}. "
        "Look for how far purification leads poisoned images back over clean ones. Noise is "
        "white, as large in L2 as each image's poison. Triangles are means; the outermost bins "
        "hold all that lies beyond."
    )


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
