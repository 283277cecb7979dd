"""Every figure of a report with its title and caption, drawn and stored as bytes."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from matplotlib import rc_context
from matplotlib.figure import Figure

from harness.report.chart_cost import cost, cost_caption
from harness.report.chart_curves import training_curves
from harness.report.chart_images import AMPLIFIED, MOST_ROWS, image_grid
from harness.report.chart_magnification import magnification
from harness.report.chart_power import power
from harness.report.chart_sweep import sweep_lines, sweep_maps
from harness.report.chart_targets import per_target, target_squares
from harness.report.chart_tradeoff import tradeoff
from harness.report.drawn_with import drawn_with
from harness.report.samples import Gallery
from harness.report.style import RC
from harness.report.summary import Summary


@dataclass(frozen=True, slots=True)
class Drawing:
    """A figure as files.

    Attributes:
        name: Of its files.
        title: Heading.
        caption: What to look at, and how many trials stand behind it.
        svg, png: The two forms.
        raster: Whether it is made of images, for which PNG is the smaller form.
        width_px: Width at which it is meant to be seen.
    """

    name: str
    title: str
    caption: str
    svg: str
    png: bytes
    raster: bool
    width_px: int


IMAGES = "images_"
"""How the names of galleries begin."""

Caption = str | Callable[[Summary], str]

_CHARTS: tuple[tuple[str, str, Callable[[Summary], Figure | None], Caption], ...] = (
    (
        "tradeoff", "Natural accuracy against poison success", tradeoff,
        "Up and to the left is better. The dashed line joins the points that none beats in both; "
        "hollow points earn no credit; bars are 95 % intervals. The horizontal axis is stretched "
        "(square root), so that low rates stay apart.",
    ),
    ("cost", "Cost against effect", cost, cost_caption),
    (
        "targets", "Success per target", per_target,
        "Large marks are means over seeds, small dots single trials. A defense that holds on "
        "average may fail on one target: look for the highest mark of its colour.",
    ),
    (
        "squares", "Success per target and defense", target_squares,
        "One square per target and defense, dark where the target was classified as the attacker "
        "wants; white was not measured. A dark column is a target that most defenses lose, a dark "
        "row a defense that fails: look for targets that fall under one defense alone.",
    ),
    (
        "magnification", "Success against trigger magnification", magnification,
        "The attacker may magnify the trigger at test time. A defense that holds at x1 and gives "
        "way at x2 or x3 has weakened the backdoor, not removed it. Bars are 95 % intervals; the "
        "dotted line is what a clean model shows.",
    ),
    (
        "sweep_lines", "Strength of a defense", sweep_lines,
        "A parameter of a defense varies, all else stands still. Look for the value from which "
        "success is down at the clean floor, and for what accuracy it costs there. Bars, and the "
        "grey band of the undefended, are 95 % intervals. Langevin steps, or repeats, of one "
        "seed lie on one chain: such points share their noise and are correlated.",
    ),
    (
        "sweep_maps", "Strength of a defense in two parameters", sweep_maps,
        "Two parameters of a defense vary, all else stands still; 95 % intervals stand below the "
        "estimates. Look for the squares that are light for success and still dark for accuracy. "
        "White was not measured. All maps of success go from 0 to 100 %, those of accuracy over "
        "the accuracies of this figure; the dash on the scale is the undefended.",
    ),
    (
        "power", "Success against the attacker's power", power,
        "A parameter of an attack varies, all else stands still. Look for the power from which a "
        "defense gives way, and for lines that cross: then the order of defenses depends on the "
        "attacker. Bars are 95 % intervals, a little aside where they would overlap; the dotted "
        "line is what a clean model shows.",
    ),
    (
        "curves", "Training", training_curves,
        "Means over trials. Look for defenses that slow learning, and for the epoch in which the "
        "poison takes hold.",
    ),
)  # fmt: skip


def draw_all(summary: Summary, shown: Sequence[Gallery]) -> list[Drawing]:
    """Draw every figure whose data are there.

    Args:
        summary: Of the run.
        shown: Galleries of images.
    """
    found = []
    for name, title, draw, caption in _CHARTS:
        with rc_context(RC):
            figure = draw(summary)
            if figure is not None:
                text = caption if isinstance(caption, str) else caption(summary)
                said = f"{text} n counts the trials of one defense."
                found.append(stored(name, title, said, figure, raster=False))
    for index, gallery in enumerate(shown, 1):
        with rc_context(RC):
            name, title = f"{IMAGES}{index}", f"Images: {gallery.title}"
            found.append(stored(name, title, _images(gallery), image_grid(gallery), raster=True))
    return found


def draw_one(name: str, title: str, caption: str, draw: Callable[[], Figure]) -> Drawing:
    """Draw a figure of images that is no part of a report, in the same look."""
    with rc_context(RC):
        return stored(name, title, caption, draw(), raster=True)


def _images(gallery: Gallery) -> str:
    target = "" if gallery.target is None else f" of target {gallery.target}"
    return (
        f"{min(MOST_ROWS, len(gallery.clean))} poisoned rows{target} at three stages. The third "
        f"column shows the change that the attack made, {AMPLIFIED} times as strong, around grey. "
        "Look for whether it is still there after a defense, and for what else was lost."
    )


def stored(name: str, title: str, caption: str, figure: Figure, *, raster: bool) -> Drawing:
    """Return a figure as SVG and PNG, which note what drew them; same data, same bytes."""
    width = int(figure.get_size_inches()[0] * 96)
    svg, png = io.StringIO(), io.BytesIO()
    figure.savefig(svg, format="svg", metadata={"Date": None, "Creator": drawn_with()})
    figure.savefig(png, format="png", dpi=200, metadata={"Software": drawn_with()})
    figure.clear()
    return Drawing(name, title, caption, svg.getvalue(), png.getvalue(), raster, width)
