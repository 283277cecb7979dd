"""Whether a report's figures are what its records draw, and its page shows those."""

from __future__ import annotations

import html
import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from harness.report.drawn_with import differing, drawn_with, noted_in_png, noted_in_svg
from harness.report.figures import IMAGES, Drawing
from harness.report.page import figure_element
from harness.verification.drawings import png_difference, svg_difference
from harness.verification.found import Found

_PAGE = "report/index.html"
_SHOWN = re.compile(
    r'<figure style="[^"]*">\s*<h3>(.*?)</h3>\s*<div class="scroll paper[^"]*">(.*?)</div>\s*'
    r"<figcaption>(.*?)</figcaption>",
    re.DOTALL,
)
_SECTION = re.compile(r'<section id="figures">(.*?)</section>', re.DOTALL)


def check_figures(
    found: Found, report: Path, drawings: Sequence[Drawing], *, sampled: bool
) -> None:
    """Hold the figures of a report against what its records draw.

    Where another matplotlib, other fonts or other code of ours drew them, a line that lies
    elsewhere says nothing, and is no discrepancy.

    Args:
        found: Where to note what is found.
        report: Folder of the report.
        drawings: What the records draw here.
        sampled: Whether samples of the run are there, without which no images can be drawn.
    """
    files = _figure_files(report / "figures")
    notes = {_note(file) for file in files.values()} - {""}
    # One suffices: a figure from which the note was taken is none of another version.
    alike = drawn_with() in notes
    doubtful = found.wrong if alike else found.unchecked
    right, strange = 0, []
    for name, difference in _differences(files, drawings):
        if not difference:
            right += 1
        elif alike:
            found.wrong.append(f"report/figures/{name}, {difference}")
        else:
            strange.append(name)
    if right:
        found.checked.append(f"{right} files of report/figures against what the records draw")
    if strange:
        found.unchecked.append(f"report/figures/{', '.join(strange)}: {_why(notes)}")
    expected = {name for drawing in drawings for name in _names(drawing)}
    doubtful += (
        f"report/figures/{name}: not there, and the records draw one"
        for name in sorted(expected - set(files))
    )
    for name in sorted(set(files) - expected):
        if name.startswith(IMAGES) and not sampled:
            found.unchecked.append(f"report/figures/{name}: no samples of the run are there")
        else:
            doubtful.append(f"report/figures/{name}: the records draw no such figure")


def check_drawings_of_page(
    found: Found, page: str, report: Path, drawings: Sequence[Drawing]
) -> None:
    """Hold the drawings in a page, and their captions, against the files of the report.

    Args:
        found: Where to note what is found.
        page: Its text.
        report: Folder of the report, with ``figures``.
        drawings: What the records draw here; it names the files, and says the captions.
    """
    files = _figure_files(report / "figures")
    alike = drawn_with() in {_note(file) for file in files.values()}
    doubtful = found.wrong if alike else found.unchecked
    by_title = {drawing.title: drawing for drawing in drawings}
    section = _SECTION.search(page)
    right = 0
    for index, shown in enumerate(_SHOWN.findall(section[1] if section else ""), 1):
        title, body, caption = html.unescape(shown[0]), shown[1], html.unescape(shown[2])
        drawing = by_title.pop(title, None)
        if drawing is None or any(name not in files for name in _names(drawing)):
            doubtful.append(f"{_PAGE}, figure {title!r}: there are no files of it")
            continue
        if caption != drawing.caption:
            doubtful.append(
                f"{_PAGE}, caption of figure {drawing.name}: says {caption!r}, the records give "
                f"{drawing.caption!r}"
            )
        svg, png = (files[name] for name in _names(drawing))
        stored = replace(drawing, caption=caption, svg=_text(svg), png=png.read_bytes())
        if body.strip() == _element(stored, index):
            right += 1
        else:
            found.wrong.append(f"{_PAGE}, figure {drawing.name}: is not the one of report/figures")
    doubtful += (
        f"{_PAGE}, figure {drawing.name}: not there, and the records draw one"
        for drawing in by_title.values()
    )
    if right:
        found.checked.append(f"{right} drawings in {_PAGE} against those of report/figures")


def _element(stored: Drawing, index: int) -> str:
    """Return a figure as a page has it; "" of a file that is no SVG."""
    try:
        return str(figure_element(stored, f"f{index}")).strip()
    except ValueError:
        return ""


def _differences(files: dict[str, Path], drawings: Sequence[Drawing]) -> Iterator[tuple[str, str]]:
    for drawing in drawings:
        svg, png = _names(drawing)
        if svg in files:
            yield svg, svg_difference(_text(files[svg]), drawing.svg)
        if png in files:
            yield png, png_difference(files[png].read_bytes(), drawing.png)


def _why(notes: set[str]) -> str:
    if not notes:
        return "drawn otherwise by an earlier version, which did not note with what"
    return differing(min(notes), drawn_with())


def _names(drawing: Drawing) -> tuple[str, str]:
    return f"{drawing.name}.svg", f"{drawing.name}.png"


def _figure_files(folder: Path) -> dict[str, Path]:
    return {file.name: file for file in sorted(folder.glob("*.[sp][vn]g")) if file.is_file()}


def _note(file: Path) -> str:
    if file.suffix == ".png":
        return noted_in_png(file.read_bytes())
    return noted_in_svg(_text(file))


def _text(file: Path) -> str:
    return file.read_bytes().decode(errors="replace")
