"""Encoded images in a column of a Parquet file."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image as Pillow

from harness.core.errors import DataError, UsageError
from harness.core.files import write_aside
from harness.core.image_files import check_depth, upright, upright_size
from harness.purify.sources import Image, file_state, part_path

AT_ONCE = 256  # rows
NAMES = ("image", "img", "images", "bytes")


class TableSource:
    """Images as PNG or JPEG bytes in a column; the other columns are copied as they are.

    The column holds bytes, or a struct with a field ``bytes`` as the data sets of Hugging Face do.
    Purified images are PNG.

    Args:
        path: The file.
        column: Which column; without it one called ``image``, ``img``, ``images`` or ``bytes``.

    Raises:
        UsageError: If there is no such column, or no row.
    """

    suffix = ".parquet"
    left_out: Sequence[str] = ()

    def __init__(self, path: Path, column: str | None) -> None:
        self.path = path
        try:
            self.state = file_state(path)
            self.file = pq.ParquetFile(path, memory_map=True)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{str(path)!r} cannot be read as Parquet: {error}") from error
        self.schema = self.file.schema_arrow
        fitting = [f.name for f in self.schema if _holds_bytes(f.type)]
        wanted = [column] if column else [n for n in NAMES if n in fitting]
        if not wanted or wanted[0] not in fitting:
            listed = ", ".join(self.schema.names)
            asked = f"no column {column!r} of image bytes" if column else "no column of image bytes"
            raise UsageError(f"{str(path)!r} has {asked} (it has {listed}); give --column.")
        self.column = wanted[0]
        counts = [self.file.metadata.row_group(i).num_rows for i in range(self.file.num_row_groups)]
        self.ends = np.cumsum(counts)
        self._walks: dict[tuple[str, ...] | None, _Walk] = {}
        if not len(self):
            raise UsageError(f"{str(path)!r} has no row.")

    def __len__(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def names(self, start: int, stop: int) -> list[str]:
        """Return the rows' numbers."""
        return [f"row {row}" for row in range(start, stop)]

    def identity(self) -> str:
        """Return size and time of the file."""
        stat = self.path.stat()
        return f"{self.column} {stat.st_size} {stat.st_mtime_ns} {len(self)}"

    def states(self, start: int, stop: int) -> list[str]:
        """Return size and time of the file, as often as there are rows."""
        return [self.state] * (stop - start)

    def shapes(self) -> dict[tuple[int, int, int], int]:
        """Return the first row of each shape, from the images' headers."""
        found: dict[tuple[int, int, int], int] = {}
        row = 0
        for batch in _batches(self.path, self.file, 1024, columns=[self.column]):
            for value in batch.column(0):
                with _open(value, row) as picture, _readable(row):
                    check_depth(picture, f"the image in row {row}")
                    width, height = upright_size(picture)
                    found.setdefault((3, height, width), row)
                row += 1
        return found

    def _rows(self, start: int, stop: int, columns: list[str] | None = None) -> pa.Table:
        """Return some rows."""
        key = tuple(columns) if columns else None
        walk = self._walks.get(key)
        if walk is None or walk.position > start:
            walk = self._walks[key] = _Walk(self.path, self.ends, start, columns)
        return walk.rows(start, stop)

    def read(self, start: int, stop: int) -> list[Image]:
        """Return the rows as RGB, upright."""
        found = []
        column = self._rows(start, stop, [self.column]).column(0)
        for row, value in enumerate(column, start):
            with _open(value, row) as picture, _readable(row):
                check_depth(picture, f"the image in row {row}")
                pixels = np.asarray(upright(picture).convert("RGB"))
            found.append(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
        return found

    def write(self, parts: Path, out: Path, start: int, images: Sequence[Image]) -> None:
        """Keep the rows' column in a file of its own."""
        field = self.schema.field(self.column)
        given = self._rows(start, start + len(images), [self.column]).column(0).to_pylist()
        values: list[Any] = []
        for old, image in zip(given, images, strict=True):
            buffer = io.BytesIO()
            Pillow.fromarray(image.transpose(1, 2, 0)).save(buffer, format="PNG")
            png = buffer.getvalue()
            values.append({**old, "bytes": png} if isinstance(old, dict) else png)
        table = pa.table({self.column: pa.array(values, field.type)})
        write_aside(part_path(parts, start, ".parquet"), lambda aside: pq.write_table(table, aside))

    def finish(self, parts: Path, out: Path, chunk: int) -> None:
        """Copy the file with the column replaced."""
        write_aside(out, lambda aside: self._assemble(parts, aside, chunk))

    def _assemble(self, parts: Path, out: Path, chunk: int) -> None:
        place = self.schema.get_field_index(self.column)
        with pq.ParquetWriter(out, self.schema) as writer:
            for start in range(0, len(self), chunk):
                rows = self._rows(start, min(start + chunk, len(self)))
                done = pq.read_table(part_path(parts, start, ".parquet")).column(0)
                writer.write_table(rows.set_column(place, self.schema.field(place), done))


class _Walk:
    """Rows of a file, in their order, a few at a time, however many a row group has.

    Writers often put all rows into one group; to read it for each chunk would take the memory of
    the whole column, and time that grows with the square of its length.
    """

    def __init__(
        self, path: Path, ends: NDArray[np.int64], start: int, columns: list[str] | None
    ) -> None:
        first = int(np.searchsorted(ends, start, side="right"))
        self.position = int(ends[first - 1]) if first else 0
        # Unbuffered, pages are read as they are needed.
        file = pq.ParquetFile(path, memory_map=True, pre_buffer=False)
        groups = list(range(first, len(ends)))
        self._batches = _batches(path, file, AT_ONCE, row_groups=groups, columns=columns)
        self._read: list[pa.RecordBatch] = []  # from ``position`` on
        self._ahead = self.position  # of the next batch

    def rows(self, start: int, stop: int) -> pa.Table:
        """Return rows at or behind those that were returned last."""
        while self._ahead < stop:
            self._drop(start)
            self._read.append(next(self._batches))
            self._ahead += len(self._read[-1])
        self._drop(start)
        return pa.Table.from_batches(self._read).slice(start - self.position, stop - start)

    def _drop(self, start: int) -> None:
        """Let go of batches that lie before a row; a slice of one would keep all of it."""
        while self._read and self.position + len(self._read[0]) <= start:
            self.position += len(self._read.pop(0))


def _batches(path: Path, file: Any, size: int, **which: Any) -> Iterator[pa.RecordBatch]:
    """Yield a file's rows, so many at a time."""
    try:
        yield from file.iter_batches(size, **which)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{str(path)!r} is damaged: {error}") from error


def _holds_bytes(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return bool(place >= 0) and _holds_bytes(kind.field(place).type)
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _open(value: Any, row: int) -> Pillow.Image:
    plain = value.as_py()
    raw = plain.get("bytes") if isinstance(plain, dict) else plain
    with _readable(row):
        return Pillow.open(io.BytesIO(raw or b""))


@contextmanager
def _readable(row: int) -> Iterator[None]:
    """Turn what Pillow raises for a damaged image into a message that names the row."""
    try:
        yield
    except (OSError, ValueError, SyntaxError, Pillow.DecompressionBombError) as error:
        raise DataError(f"the image in row {row} cannot be read: {error}") from error
