"""Whether two drawings show the same, and where they first do not."""

from __future__ import annotations

import base64
import binascii
import hashlib
import io
import itertools
import re

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_NEAR_PT = 1e-3  # of a point: what the last bit of a number may move a line by, seen by nobody
_NEAR_LEVEL = 1  # of 255: the same for the edge of a line in pixels

_NUMBER = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)")
_METADATA = re.compile(r"<metadata>.*?</metadata>", re.DOTALL)
_PIXELS = re.compile(r"data:image/png;base64,([^\"']*)")
_HASHED = re.compile(r"\b[A-Za-z]\w{0,8}?[0-9a-f]{10}\b")  # an id made from what it names
_GROUP = re.compile(r'<g id="([^"]+)"')
_UNREADABLE = (OSError, ValueError, SyntaxError, Image.DecompressionBombError)
_LONGEST = 80  # characters of a line that are shown


def svg_difference(said: str, given: str) -> str:
    """Return where a drawing first shows something else than it should, or "".

    What nobody can see is no difference: a coordinate moved by the rounding of another processor,
    and the names that are made from such numbers.

    Args:
        said: The drawing that was found.
        given: The one that it should be.
    """
    if said == given:
        return ""
    place = "its head"
    ours, theirs = _lines(said), _lines(given)
    for one, other in itertools.zip_longest(ours, theirs, fillvalue=""):
        if not _same(one, other):
            return f"in {place}: says {_cut(one)!r}, the records draw {_cut(other)!r}"
        group = _GROUP.search(other)
        place = group[1] if group else place
    return ""


def png_difference(said: bytes, given: bytes) -> str:
    """Return how the pixels of an image differ from those that it should have, or ""."""
    if said == given:
        return ""
    right = _pixels(given)
    try:
        with Image.open(io.BytesIO(said)) as image:
            size = image.size
        found = _pixels(said) if size == right.shape[1::-1] else None
    except _UNREADABLE as error:
        return f"is no image: {error}"
    if found is None:
        return f"has {size[0]} x {size[1]} pixels, the records draw {right.shape[1]} x {len(right)}"
    apart = np.abs(found.astype(np.int16) - right).max(axis=2) > _NEAR_LEVEL
    if not apart.any():
        return ""
    row, column = np.argwhere(apart)[0]
    return (
        f"{int(apart.sum()):,} of {apart.size:,} pixels are not those that the records draw, the "
        f"first in row {row}, column {column}"
    )


def _pixels(png: bytes) -> NDArray[np.uint8]:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGBA"))


def _lines(svg: str) -> list[str]:
    """Return what is drawn, line by line: images by their pixels, made names by their place."""
    names: dict[str, str] = {}
    shown = _PIXELS.sub(lambda found: _image_digest(found[1]), _METADATA.sub("", svg))
    return _HASHED.sub(
        lambda found: names.setdefault(found[0], f"made_{len(names)}"), shown
    ).splitlines()


def _image_digest(encoded: str) -> str:
    try:
        content = _pixels(base64.b64decode(encoded)).tobytes()
    except (*_UNREADABLE, binascii.Error):
        content = encoded.encode()
    # Letters alone, so that no part of it is compared as a number.
    return "pixels-" + hashlib.sha256(content).hexdigest().translate(_LETTERS)


_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def _same(one: str, other: str) -> bool:
    if one == other:
        return True
    ours, theirs = _NUMBER.split(one), _NUMBER.split(other)
    return len(ours) == len(theirs) and all(
        a == b or (index % 2 == 1 and abs(float(a) - float(b)) <= _NEAR_PT)
        for index, (a, b) in enumerate(zip(ours, theirs, strict=True))
    )


def _cut(line: str) -> str:
    text = line.strip()
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}…"
