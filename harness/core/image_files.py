"""Image files: which there are below a folder, and what a data set may take of one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from PIL import ExifTags, Image, ImageOps

from harness.core.errors import DataError

_SIDEWAYS = frozenset([5, 6, 7, 8])  # EXIF orientations that exchange width and height


def check_depth(image: Image.Image, called: str) -> None:
    """Refuse an image that Pillow cannot turn into bytes.

    Args:
        image: Opened; its pixels are not read.
        called: Its name in the message.

    Raises:
        DataError: If it has more than 8 bits per channel.
    """
    if image.mode.startswith("I") or image.mode == "F":
        # Pillow would cut such values off at 255 instead of scaling them.
        raise DataError(f"{called} has more than 8 bits per channel; convert it to 8 bits.")


def upright(image: Image.Image) -> Image.Image:
    """Return an image as a viewer shows it: turned as its EXIF orientation says."""
    return ImageOps.exif_transpose(image)


def upright_size(image: Image.Image) -> tuple[int, int]:
    """Return width and height of an image as a viewer shows it, from its header."""
    # Not image.getexif(): of a PNG without EXIF that would read all pixels.
    orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
    # Pillow turns a TIFF by itself, and says so only once it has read the pixels.
    return upright(image).size if orientation in _SIDEWAYS else image.size


def files_below(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder at any depth, through links to folders too.

    A link back to a folder that it lies in has no end and is not followed. A link to nothing is
    yielded as a file: to leave it out would lose an image without a word.

    Raises:
        OSError: If a folder cannot be read.
    """
    return _below(folder, frozenset())


def _below(folder: Path, above: frozenset[str]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for path in folder.iterdir():
        if path.is_dir():
            yield from _below(path, above | {real})
        elif path.is_file() or path.is_symlink():
            yield path
