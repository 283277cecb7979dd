"""A folder of image files, at any depth."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pillow

from harness.core.errors import DataError, UsageError
from harness.core.files import write_aside
from harness.core.image_files import check_depth, files_below, upright, upright_size
from harness.purify.sources import Image, file_state

SUFFIXES = frozenset([".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp"])


class FolderSource:
    """Image files below a folder, sorted by path; each becomes a PNG of the same name.

    PNG, because a JPEG would change the pixels again. Every image is read as RGB, and as a viewer
    shows it: a PNG of pixels as a camera stored them would lie on its side.

    Args:
        root: The folder.

    Raises:
        UsageError: If it holds no image, or two that differ by their suffix alone.
    """

    suffix = ""
    column = None

    def __init__(self, root: Path) -> None:
        self.root = root
        try:
            found = [p.relative_to(root) for p in files_below(root)]
        except OSError as error:
            raise DataError(f"{error.filename!r} cannot be read: {error.strerror}.") from error
        # What an earlier run wrote into a folder inside is no input.
        files = sorted(p.as_posix() for p in found if not p.as_posix().startswith("."))
        self.files = [f for f in files if Path(f).suffix.lower() in SUFFIXES]
        self.left_out: Sequence[str] = [f for f in files if Path(f).suffix.lower() not in SUFFIXES]
        if not self.files:
            allowed = ", ".join(sorted(SUFFIXES))
            raise UsageError(f"{str(root)!r} holds no image file ({allowed}).")
        becomes = [str(Path(f).with_suffix(".png")) for f in self.files]
        if len(set(becomes)) < len(becomes):
            twice = next(name for name in becomes if becomes.count(name) > 1)
            raise UsageError(f"two files in {str(root)!r} would become {twice!r}; rename one.")

    def __len__(self) -> int:
        return len(self.files)

    def names(self, start: int, stop: int) -> list[str]:
        """Return the paths below the folder."""
        return self.files[start:stop]

    def identity(self) -> str:
        """Return a digest of paths, sizes and times of change."""
        sha = hashlib.sha256()
        for name in self.files:
            stat = (self.root / name).stat()
            sha.update(f"{name}\0{stat.st_size}\0{stat.st_mtime_ns}\n".encode())
        return sha.hexdigest()

    def states(self, start: int, stop: int) -> list[str]:
        """Return size and time of each file, as it is now."""
        return [file_state(self.root / name) for name in self.files[start:stop]]

    def shapes(self) -> dict[tuple[int, int, int], int]:
        """Return the first row of each shape, from the files' headers."""
        found: dict[tuple[int, int, int], int] = {}
        for row, name in enumerate(self.files):
            try:
                with Pillow.open(self.root / name) as picture:
                    check_depth(picture, f"image {name!r}")
                    width, height = upright_size(picture)
            except (OSError, ValueError, Pillow.DecompressionBombError) as error:
                raise DataError(f"image {name!r} cannot be read: {error}") from error
            found.setdefault((3, height, width), row)
        return found

    def read(self, start: int, stop: int) -> list[Image]:
        """Return the rows as RGB, upright."""
        return [self._read(name) for name in self.files[start:stop]]

    def _read(self, name: str) -> Image:
        try:
            with Pillow.open(self.root / name) as picture:
                check_depth(picture, f"image {name!r}")
                pixels = np.asarray(upright(picture).convert("RGB"))
        except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
            raise DataError(f"image {name!r} cannot be read: {error}") from error
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))

    def write(self, parts: Path, out: Path, start: int, images: Sequence[Image]) -> None:
        """Write each image as a PNG in its place."""
        for name, image in zip(self.files[start:], images, strict=False):
            picture = Pillow.fromarray(image.transpose(1, 2, 0))
            path = (out / name).with_suffix(".png")
            write_aside(path, lambda aside, p=picture: p.save(aside, format="PNG"))  # type: ignore[misc]

    def finish(self, parts: Path, out: Path, chunk: int) -> None:
        """Do nothing: every file is in its place."""
