"""Images to purify, read and written in chunks: what a job needs of a file format."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import UsageError

Image = NDArray[np.uint8]  # (C, H, W)


class Source(Protocol):
    """Images in a fixed order, and the files that their purified versions become.

    Attributes:
        suffix: Of a file in this format; "" for a folder.
        left_out: Files in the source that are taken for no images, and are not copied.
    """

    suffix: str
    left_out: Sequence[str]

    @property
    def column(self) -> str | None:
        """The array or column that holds them; None for a folder."""
        ...

    def __len__(self) -> int:
        """Return the number of images."""
        ...

    def names(self, start: int, stop: int) -> list[str]:
        """Return what to call these rows in messages."""
        ...

    def shapes(self) -> dict[tuple[int, int, int], int]:
        """Return the first row of each shape (C, H, W), without reading all pixels.

        Raises:
            DataError: If an image cannot be read.
        """
        ...

    def identity(self) -> str:
        """Return a digest of what is read: names, sizes and times of files, no pixels."""
        ...

    def states(self, start: int, stop: int) -> list[str]:
        """Return of the file that each of these rows is read from what :func:`file_state` says.

        Of a file that stays open, it is that of before it was opened.
        """
        ...

    def read(self, start: int, stop: int) -> list[Image]:
        """Return these rows.

        Raises:
            DataError: If one cannot be read; names it.
        """
        ...

    def write(self, parts: Path, out: Path, start: int, images: Sequence[Image]) -> None:
        """Keep purified rows: in their place in ``out``, or aside in ``parts``; whole or not."""
        ...

    def finish(self, parts: Path, out: Path, chunk: int) -> None:
        """Make ``out`` of what was kept aside, ``chunk`` rows a piece."""
        ...


def open_source(path: str, column: str | None = None) -> Source:
    """Return the images of a folder, an ``.npz`` or a ``.parquet`` file.

    Args:
        path: Where they are.
        column: Which array or column holds the images, where it cannot be told.

    Raises:
        UsageError: If there is no such thing, or no image in it.
    """
    from harness.purify.arrays import ArraySource
    from harness.purify.folder import FolderSource
    from harness.purify.table import TableSource

    where = Path(path)
    if where.is_dir():
        if column is not None:
            raise UsageError("--column is for .npz and .parquet files; a folder has none.")
        return FolderSource(where)
    if not where.is_file():
        raise UsageError(f"{path!r} does not exist.")
    if where.suffix == ".npz":
        return ArraySource(where, column)
    if where.suffix == ".parquet":
        return TableSource(where, column)
    raise UsageError(f"{path!r} is no folder, .npz or .parquet file.")


def file_state(path: Path) -> str:
    """Return size and time of a file, which change with what it holds, and are had for nothing."""
    stat = path.stat()
    return f"{stat.st_size} {stat.st_mtime_ns}"


def part_path(parts: Path, start: int, suffix: str) -> Path:
    """Return where the chunk that begins at a row is kept aside."""
    return parts / f"rows-{start:09d}{suffix}"
