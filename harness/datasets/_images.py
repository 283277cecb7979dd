"""Image files on disk → uint8 arrays."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from harness.core.errors import DataError
from harness.core.image_files import check_depth, files_below

Fit = Literal["squash", "crop"]


def class_folders(folder: Path) -> list[str]:
    """Return the names of the folders in a folder, sorted: one per class.

    Raises:
        DataError: If the folder cannot be read or has no folder in it.
    """
    try:
        names = sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name[0] != ".")
    except OSError as error:
        raise DataError(f"{folder} cannot be read as a folder of classes: {error}") from error
    if not names:
        raise DataError(
            f"{folder} has no class folders; expected {folder}/<class>/<image>. "
            "Images without classes can lie in one folder in it."
        )
    return names


def labelled_files(
    folder: Path, class_names: Sequence[str]
) -> tuple[list[Path], NDArray[np.int64]]:
    """Return the files below each class folder, sorted by path within a class, and their labels.

    Hidden files (``.DS_Store``) are left out; every other file counts as an image.

    Raises:
        DataError: If a class has no file.
    """
    files: list[Path] = []
    counts = []
    for name in class_names:
        try:
            found = [p for p in files_below(folder / name) if not p.name.startswith(".")]
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from error
        if not found:
            raise DataError(f"class {name!r} has no images: {folder / name} holds no file.")
        files += sorted(found, key=Path.as_posix)
        counts.append(len(found))
    return files, np.repeat(np.arange(len(counts)), counts)


def fitted(image: Image.Image, size: int, fit: Fit) -> Image.Image:
    """Return an image as a square of ``size`` pixels: squashed whole, or its middle (bilinear)."""
    if image.size == (size, size):
        return image
    if fit == "squash":
        return image.resize((size, size), Image.Resampling.BILINEAR)
    side = min(image.size)
    left, top = ((whole - side) // 2 for whole in image.size)
    square = image.crop((left, top, left + side, top + side))
    return square.resize((size, size), Image.Resampling.BILINEAR)


def resized(images: NDArray[np.uint8], size: int, fit: Fit = "squash") -> NDArray[np.uint8]:
    """Return images as squares of another size.

    Args:
        images: uint8 (N, C, H, W), grey or colour.
        size: Side in pixels that each gets, at least 1.
        fit: How; see :func:`fitted`.

    Returns:
        uint8 (N, C, size, size).

    Raises:
        DataError: If the images have another number of channels than 1 or 3.
    """
    count, channels, *sides = images.shape
    if channels not in (1, 3):
        raise DataError(f"only grey and colour images can be resized; got {channels} channels.")
    if sides == [size, size]:
        return images
    made = np.empty((count, channels, size, size), np.uint8)
    for row, pixels in enumerate(images):
        image = Image.fromarray(pixels[0] if channels == 1 else pixels.transpose(1, 2, 0))
        square = np.asarray(fitted(image, size, fit)).reshape(size, size, channels)
        made[row] = square.transpose(2, 0, 1)
    return made


def read_images(
    files: Sequence[Path], size: int | None = None, fit: Fit = "squash"
) -> NDArray[np.uint8]:
    """Read images as RGB.

    Args:
        files: At least one.
        size: Side in pixels that each gets, or None to keep its size.
        fit: How; see :func:`fitted`.

    Returns:
        uint8 (N, 3, H, W).

    Raises:
        DataError: If a file is no readable 8-bit image, or two differ in size and ``size`` is None.
    """
    head = _read(files[0], size, fit)
    images = np.empty((len(files), 3, *head.shape[:2]), np.uint8)
    for row, path in enumerate(files):
        pixels = _read(path, size, fit)
        if pixels.shape != head.shape:
            raise DataError(
                f"all images must have one size: {files[0]} has {_side(head)} pixels, "
                f"{path} has {_side(pixels)}. Give a size to resize them to."
            )
        images[row] = pixels.transpose(2, 0, 1)
    return images


def _side(pixels: NDArray[np.uint8]) -> str:
    return f"{pixels.shape[1]}x{pixels.shape[0]}"


def _read(path: Path, size: int | None, fit: Fit) -> NDArray[np.uint8]:
    try:
        with Image.open(path) as image:
            check_depth(image, str(path))
            # As stored, whatever an EXIF orientation says: so do torchvision and its kin.
            pixels = image.convert("RGB")
            return np.asarray(pixels if size is None else fitted(pixels, size, fit))
    # Pillow reports damage with all of these, depending on the format.
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise DataError(f"{path} is no readable image: {error}") from error
