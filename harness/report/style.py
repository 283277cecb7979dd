"""One look for all figures: colours that colour-blind readers and a black printer tell apart."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

# Okabe & Ito's palette (2008); black is kept for the undefended, and yellow, faint on paper, last.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442")
_MARKERS = ("o", "s", "^", "D", "v", "P", "h")
_DASHES = ("-", (0, (5, 1.5)), (0, (6, 1.5, 1.5, 1.5)), (0, (2, 1)))

UNDEFENDED = "#000000"
INK = "#1a1a1a"
FAINT = "#8a8a8a"

FLOOR: Any = {"color": INK, "linestyle": (0, (1, 2)), "linewidth": 1.2}

BARE: Any = {"color": UNDEFENDED, "linestyle": (0, (5, 2)), "linewidth": 1.3}
"""The undefended, where it is a level and no point."""

# Each from a grey that is seen on white to a dark tone, so that black print keeps the order; what
# was not measured is white.
SUCCESS_MAP = ("#e4e7eb", "#6ba3d0", "#08306b")
ACCURACY_MAP = ("#ebe8e0", "#d99a45", "#5f2a06")

RC: Any = {  # the keys of matplotlib.rcParams
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 9,
    "axes.edgecolor": FAINT,
    "axes.labelcolor": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e3e3e3",
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.frameon": False,
    "legend.fontsize": 8.5,
    "lines.linewidth": 1.6,
    "lines.markersize": 6,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    "svg.fonttype": "path",  # the page looks the same where the font is not installed
    "svg.hashsalt": "puregen-bench",  # same data, same bytes
    "image.interpolation": "nearest",
    "text.parse_math": False,  # a label with a dollar is no formula
}


@dataclass(frozen=True, slots=True)
class Look:
    """How one defense is drawn, in every figure alike."""

    colour: str
    marker: str
    dash: Any  # matplotlib's line style: a name, or (offset, pattern)


def looks(defenses: Iterable[str], undefended: Iterable[str]) -> dict[str, Look]:
    """Return a look per defense; the undefended is black.

    Args:
        defenses: Labels in the order of the table.
        undefended: Those among them that are no defense.
    """
    bare, found = set(undefended), {}
    index = 0
    for defense in defenses:
        if defense in bare:
            found[defense] = Look(UNDEFENDED, "X", "-")
            continue
        lap = index // len(_COLOURS)
        found[defense] = Look(
            _COLOURS[index % len(_COLOURS)],
            _MARKERS[(index + lap) % len(_MARKERS)],
            _DASHES[index % len(_DASHES)],
        )
        index += 1
    return found
