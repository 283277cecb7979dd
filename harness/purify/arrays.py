"""Images in an ``.npz`` file, without reading it into memory."""

from __future__ import annotations

import math
import shutil
import struct
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError, UsageError
from harness.core.files import write_aside
from harness.datasets.npz import CHANNELS
from harness.purify.sources import Image, file_state, part_path

PREFERRED = ("images", "x_train", "data")


class ArraySource:
    """The images of an ``.npz`` file; its other arrays are copied as they are.

    Args:
        path: The file.
        column: Which array; without it the one called ``images``, ``x_train`` or ``data``, or the
            only one of uint8 images.

    Raises:
        UsageError: If it is damaged, or it cannot be told which array to take.
    """

    suffix = ".npz"
    left_out: Sequence[str] = ()

    def __init__(self, path: Path, column: str | None) -> None:
        self.path = path
        try:
            self.state = file_state(path)
            with zipfile.ZipFile(path) as archive:
                self.members = [i for i in archive.infolist() if i.filename.endswith(".npy")]
                headers = {i.filename[:-4]: _header(archive, i) for i in self.members}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise DataError(f"{str(path)!r} cannot be read as .npz: {error}") from error
        self.column = _choose(headers, column, path)
        self.shape, self.last = _layout(headers[self.column][0], self.column)
        self.info = next(i for i in self.members if i.filename == f"{self.column}.npy")
        if self.info.compress_type != zipfile.ZIP_STORED and self._in_fortran_order():
            raise UsageError(
                f"{self.column!r} of {str(path)!r} is compressed and in Fortran order, so that no "
                "part of it can be read alone; save it with np.ascontiguousarray, or with np.savez."
            )
        self._mapped: NDArray[np.uint8] | None = None
        self._stream: IO[bytes] | None = None
        self._begin = 0  # of the first row in the stream

    def __len__(self) -> int:
        return self.shape[0]

    def names(self, start: int, stop: int) -> list[str]:
        """Return the rows' numbers in the array."""
        return [f"{self.column}[{row}]" for row in range(start, stop)]

    def identity(self) -> str:
        """Return size and time of the file, and the array's checksum in it."""
        stat = self.path.stat()
        return f"{self.column} {stat.st_size} {stat.st_mtime_ns} {self.info.CRC:08x}"

    def states(self, start: int, stop: int) -> list[str]:
        """Return size and time of the file, as often as there are rows."""
        return [self.state] * (stop - start)

    def shapes(self) -> dict[tuple[int, int, int], int]:
        """Return the one shape; all bytes are held against the archive's checksums on the way.

        Images that are mapped into memory pass those by, and another array would fail at the end.
        """
        try:
            with zipfile.ZipFile(self.path) as archive:
                wrong = archive.testzip()
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise DataError(f"{str(self.path)!r} is damaged: {error}") from error
        if wrong:
            raise DataError(f"{str(self.path)!r} is damaged: the checksum of {wrong!r} is another.")
        _, *rest = self.shape
        shape = (rest[2], rest[0], rest[1]) if self.last else tuple(rest)
        return {shape: 0}  # type: ignore[dict-item]

    def read(self, start: int, stop: int) -> list[Image]:
        """Return the rows."""
        if self.info.compress_type == zipfile.ZIP_STORED:
            if self._mapped is None:
                self._mapped = self._map()
            rows = self._mapped[start:stop]
        else:
            rows = self._unpack(start, stop)
        if self.last:
            rows = rows.transpose(0, 3, 1, 2)
        return list(np.array(rows))

    def _in_fortran_order(self) -> bool:
        with zipfile.ZipFile(self.path) as archive, archive.open(self.info.filename) as handle:
            return _read_header(handle)[1]

    def _unpack(self, start: int, stop: int) -> NDArray[np.uint8]:
        """Read rows of a compressed array; those before them are unpacked on the way, and dropped.

        Chunks come in ascending order, so that each worker unpacks the file about once.
        """
        if self._stream is None:
            archive = zipfile.ZipFile(self.path)  # open as long as this source is
            self._stream = archive.open(self.info.filename)
            _read_header(self._stream)
            self._begin = self._stream.tell()
        size = math.prod(self.shape[1:])
        place = self._begin + start * size
        if place < self._stream.tell():
            self._stream.seek(0)
        while (ahead := place - self._stream.tell()) > 0:  # seek() would take 16 MiB at a time
            self._stream.read(min(ahead, 1 << 20))
        data = self._stream.read((stop - start) * size)
        return np.frombuffer(data, np.uint8).reshape(-1, *self.shape[1:])

    def _map(self) -> NDArray[np.uint8]:
        """Map an array into memory that the file holds as it is."""
        with self.path.open("rb") as handle:
            handle.seek(self.info.header_offset)
            name, extra = struct.unpack("<26x2H", handle.read(30))
            handle.seek(name + extra, 1)
            shape, fortran, _ = _read_header(handle)
            offset = handle.tell()
        order: Any = "F" if fortran else "C"
        return np.memmap(self.path, np.uint8, "r", offset, shape, order)

    def write(self, parts: Path, out: Path, start: int, images: Sequence[Image]) -> None:
        """Keep the rows in a file of their own, in the layout of the source."""
        rows = np.stack(images)
        if self.last:
            rows = np.ascontiguousarray(rows.transpose(0, 2, 3, 1))
        write_aside(part_path(parts, start, ".npy"), lambda aside: np.save(aside, rows))

    def finish(self, parts: Path, out: Path, chunk: int) -> None:
        """Copy the file with the images replaced."""
        write_aside(out, lambda aside: self._assemble(parts, aside, chunk))

    def _assemble(self, parts: Path, out: Path, chunk: int) -> None:
        with zipfile.ZipFile(self.path) as source, zipfile.ZipFile(out, "w") as target:
            for info in self.members:
                info_out = zipfile.ZipInfo(info.filename)
                info_out.compress_type = info.compress_type
                with target.open(info_out, "w", force_zip64=True) as write:
                    if info is not self.info:
                        with source.open(info.filename) as read:
                            shutil.copyfileobj(read, write, 1 << 20)
                        continue
                    header = {"descr": "|u1", "fortran_order": False, "shape": self.shape}
                    np.lib.format.write_array_header_1_0(write, header)
                    for start in range(0, len(self), chunk):
                        rows = np.load(part_path(parts, start, ".npy"), allow_pickle=False)
                        write.write(np.ascontiguousarray(rows).data.cast("B"))


def _header(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[tuple[int, ...], np.dtype]:
    with archive.open(info) as handle:
        shape, _, dtype = _read_header(handle)
    return shape, dtype


def _read_header(handle: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype]:
    version = np.lib.format.read_magic(handle)
    if version == (1, 0):
        return np.lib.format.read_array_header_1_0(handle)
    return np.lib.format.read_array_header_2_0(handle)


def _choose(
    headers: dict[str, tuple[tuple[int, ...], np.dtype]], column: str | None, path: Path
) -> str:
    images = [n for n, (shape, dtype) in headers.items() if dtype == np.uint8 and len(shape) == 4]
    listed = ", ".join(headers) or "nothing"
    if column is not None:
        if column not in images:
            raise UsageError(
                f"{str(path)!r} has no array {column!r} of uint8 images; it holds {listed}."
            )
        return column
    for name in PREFERRED:
        if name in images:
            return name
    if len(images) != 1:
        raise UsageError(
            f"{str(path)!r} holds {len(images)} arrays of uint8 images of four axes (all: {listed})"
            "; give --column."
        )
    return images[0]


def _layout(shape: tuple[int, ...], column: str) -> tuple[tuple[int, int, int, int], bool]:
    """Return the shape, and whether the channels come last."""
    first, last = shape[1] in CHANNELS, shape[3] in CHANNELS
    if first == last or 0 in shape:
        raise UsageError(
            f"array {column!r} of shape {shape} must be (N, H, W, C) or (N, C, H, W), C 1 or 3."
        )
    return shape, last  # type: ignore[return-value]
