"""Images before the attack, after it, and after each defense, side by side."""

from __future__ import annotations

import textwrap

import numpy as np
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from harness.report.samples import Gallery

AMPLIFIED = 8
"""How often the difference is shown magnified, around mid-grey."""

MOST_ROWS = 6
_CELL = 1.05  # inches


def image_grid(gallery: Gallery) -> Figure:
    """Draw a gallery: one row per image, one column per stage."""
    count = min(MOST_ROWS, len(gallery.clean))
    columns = {
        "clean": gallery.clean,
        "poisoned": gallery.poisoned,
        f"difference x{AMPLIFIED}": amplified(gallery.clean, gallery.poisoned),
        **gallery.purified,
    }
    close = ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0, hspace=0)
    figure = Figure(figsize=(_CELL * len(columns), _CELL * count + 0.45), layout=close)
    axes = figure.subplots(count, len(columns), squeeze=False)
    for column, (name, images) in enumerate(columns.items()):
        for row in range(count):
            ax = axes[row, column]
            shown = images[row].transpose(1, 2, 0)
            grey = shown.shape[2] == 1
            ax.imshow(shown[:, :, 0] if grey else shown, cmap="gray", vmin=0, vmax=255)
            ax.set_axis_off()
        axes[0, column].set_title(_in_lines(name), fontsize=7.5, loc="center", fontweight="normal")
    return figure


def _in_lines(name: str) -> str:
    """Break a label where words end and after equals signs.

    >>> _in_lines("puregen_ddpm sampler=ancestral network_calls=8")
    'puregen_ddpm\\nsampler=\\nancestral\\nnetwork_calls=8'
    """
    return "\n".join(textwrap.wrap(name.replace("=", "= "), 16)).replace("= ", "=")


def amplified(clean: NDArray[np.uint8], poisoned: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return the change of each byte times ``AMPLIFIED`` around 128, clipped to 0..255.

    >>> amplified(np.array([10, 10], np.uint8), np.array([10, 12], np.uint8)).tolist()
    [128, 144]
    """
    change = poisoned.astype(np.int16) - clean.astype(np.int16)
    return np.clip(128 + AMPLIFIED * change, 0, 255).astype(np.uint8)
