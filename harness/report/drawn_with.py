"""What a figure was drawn with: other versions draw other lines of the same numbers."""

from __future__ import annotations

import hashlib
import io
import re
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib import font_manager, ft2font
from PIL import Image

from harness.report.style import RC

_CREATOR = re.compile(r"<dc:creator>.*?<dc:title>(.*?)</dc:title>", re.DOTALL)


@cache
def drawn_with() -> str:
    """Return what decides over the bytes of a figure, beside its numbers.

    That is matplotlib, the library and the file that draw letters, and the report's own code.
    """
    font = Path(font_manager.findfont(RC["font.family"]))
    code = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        code.update(file.read_bytes())
    return ", ".join((
        f"matplotlib {matplotlib.__version__}", f"FreeType {ft2font.__freetype_version__}",
        f"{font.name} {hashlib.sha256(font.read_bytes()).hexdigest()[:8]}",
        f"report code {code.hexdigest()[:8]}",
    ))  # fmt: skip


def noted_in_svg(svg: str) -> str:
    """Return what a figure says that it was drawn with; "" if it does not."""
    found = _CREATOR.search(svg)
    return found[1] if found else ""


def noted_in_png(png: bytes) -> str:
    """Return what a figure says that it was drawn with; "" if it does not, or is no image."""
    try:
        with Image.open(io.BytesIO(png)) as image:
            return str(image.info.get("Software", ""))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return ""


def differing(said: str, here: str) -> str:
    """Return in what two such texts differ.

    >>> differing("matplotlib 3.9, FreeType 2.6", "matplotlib 3.10, FreeType 2.6")
    'drawn with matplotlib 3.9, here matplotlib 3.10'
    """
    theirs, ours = said.split(", "), here.split(", ")
    only = ", ".join(part for part in theirs if part not in ours)
    return f"drawn with {only}, here {', '.join(part for part in ours if part not in theirs)}"
