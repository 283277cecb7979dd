"""Heat maps of what speaks for the attacker's class, victim beside victim."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness.report.chart_images import AMPLIFIED, amplified
from harness.report.style import INK

_CELL = 1.25  # inches
_ROW = 1.18  # height of a row in cells: an image and the words below it
_METHODS = (("occlusion", "occlusion"), ("gradients", "integrated gradients"))
_MAP = "PuOr_r"  # orange speaks for the attacker, violet against; print keeps both from white


@dataclass(frozen=True, eq=False)
class VictimMaps:
    """What one victim's margin owes to each pixel of N images.

    The margin is the logit of the adversary's label minus that of the true one.

    Attributes:
        name: How the victim was trained.
        occlusion, gradients: float32 (N, H, W), in units of the margin.
        margins, base_margins: float32 (N,), of the images and of their baselines.
        predicted: Label of each image.
        successes, trials: On the whole probe.
        accuracy: Natural accuracy, a share in [0, 1].
    """

    name: str
    occlusion: NDArray[np.float32]
    gradients: NDArray[np.float32]
    margins: NDArray[np.float32]
    base_margins: NDArray[np.float32]
    predicted: tuple[int, ...]
    successes: int
    trials: int
    accuracy: float


@dataclass(frozen=True, eq=False)
class Explained:
    """Images of a probe and what several victims see in them.

    Attributes:
        attack, probe: Labels.
        baseline: What the attributions are measured against, in words.
        images, baselines: uint8 (N, C, H, W).
        labels, adv_labels: int64 (N,).
        victims: At least one.
        class_names: Of the dataset.
        window: Side of the occluded square, in pixels.
    """

    attack: str
    probe: str
    baseline: str
    images: NDArray[np.uint8]
    baselines: NDArray[np.uint8]
    labels: NDArray[np.int64]
    adv_labels: NDArray[np.int64]
    victims: tuple[VictimMaps, ...]
    class_names: tuple[str, ...]
    window: int


def explanation(found: Explained) -> Figure:
    """Draw one row per image: what it was, what it is, and two maps per victim."""
    count, columns = len(found.images), 3 + 2 * len(found.victims)
    top, bottom = 0.75, 0.75  # inches, for headings and scales
    height = top + bottom + _CELL * _ROW * count
    figure = Figure(figsize=(_CELL * columns, height))
    axes = figure.subplots(count, columns, squeeze=False)
    figure.subplots_adjust(
        left=0.01, right=0.99, wspace=0.05, top=1 - top / height, bottom=bottom / height, hspace=0.2
    )
    pictures = {
        "baseline": found.baselines,
        f"probe {found.probe}": found.images,
        f"difference x{AMPLIFIED}": amplified(found.baselines, found.images),
    }
    for column, (name, images) in enumerate(pictures.items()):
        for row in range(count):
            _picture(axes[row, column], images[row])
        _above(axes[0, column], name)
    for row in range(count):
        true, wanted = (_name(found, a[row]) for a in (found.labels, found.adv_labels))
        _below(axes[row, 0], f"{true}; the attacker wants: {wanted}")
    for index, (field, title) in enumerate(_METHODS):
        span = _span([getattr(v, field) for v in found.victims])
        for place, victim in enumerate(found.victims):
            column = 3 + 2 * place + index
            _above(axes[0, column], title)
            for row in range(count):
                ax = axes[row, column]
                shown = ax.imshow(getattr(victim, field)[row], cmap=_MAP, vmin=-span, vmax=span)
                _bare(ax)
        scale = figure.add_axes((0.06 + 0.5 * index, 0.42 / height, 0.38, 0.09 / height))
        bar = figure.colorbar(shown, cax=scale, orientation="horizontal")
        bar.set_label(f"{title}: change of the margin", fontsize=7.5)
        bar.ax.tick_params(labelsize=7)
    for place, victim in enumerate(found.victims):
        first = axes[0, 3 + 2 * place]
        first.annotate(
            _heading(victim), (0, 1), (0, 16), xycoords="axes fraction",
            textcoords="offset points", fontsize=8, va="bottom", color=INK,
        )  # fmt: skip
        for row in range(count):
            before, after = victim.base_margins[row], victim.margins[row]
            said = (
                f"margin {before:+.2g} → {after:+.2g}, says {_name(found, victim.predicted[row])}"
            )
            _below(axes[row, 3 + 2 * place], said)
    return figure


def _above(ax: Axes, text: str) -> None:
    ax.annotate(text, (0, 1), (0, 3), xycoords="axes fraction", textcoords="offset points",
                fontsize=7.5, va="bottom", color=INK)  # fmt: skip


def _below(ax: Axes, text: str) -> None:
    ax.annotate(text, (0, 0), (0, -2), xycoords="axes fraction", textcoords="offset points",
                fontsize=7, va="top", color=INK)  # fmt: skip


def explained_caption(found: Explained) -> str:
    """Say what the maps are, under which conditions, and what to look for."""
    shares = "; ".join(
        f"{v.name}: success {v.successes} of {v.trials}, natural accuracy {100 * v.accuracy:.1f} %"
        for v in found.victims
    )
    return (
        f"The first {len(found.images)} images of probe {found.probe} of {found.attack}, not "
        "chosen. Orange pixels raise the margin, the logit of the attacker's class minus that of "
        f"the true one, against the baseline ({found.baseline}); violet ones lower it. Occlusion "
        f"puts the baseline back in squares of {found.window} pixels; integrated gradients add up "
        "to the change of the margin that stands below. One colour scale per method for all "
        "victims, so that pale means weak. Look for whether a victim trained on purified data "
        "still answers to the trigger where the undefended one does. One training each, with the "
        f"study's seeds ({shares})."
    )


def _span(maps: list[NDArray[np.float32]]) -> float:
    """Return the end of a colour scale: all but the strongest of a thousand pixels."""
    return max(float(np.percentile(np.abs(np.stack(maps)), 99.5)), 1e-6)


def _heading(victim: VictimMaps) -> str:
    name = textwrap.shorten(victim.name, 40, placeholder=" …")
    return f"{name}\nsuccess {victim.successes}/{victim.trials}"


def _name(found: Explained, label: int) -> str:
    names = found.class_names
    return names[label] if label < len(names) else str(label)


def _picture(ax: Axes, image: NDArray[np.uint8]) -> None:
    shown = image.transpose(1, 2, 0)
    ax.imshow(shown[:, :, 0] if shown.shape[2] == 1 else shown, cmap="gray", vmin=0, vmax=255)
    _bare(ax)


def _bare(ax: Axes) -> None:
    ax.set_xticks([])
    ax.set_yticks([])
    for spine in ax.spines.values():
        spine.set_visible(False)
