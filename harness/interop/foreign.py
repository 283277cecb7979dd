"""Foreign files, read into checked plain arrays: what every format's reader is made of."""

from __future__ import annotations

import errno
import math
import tokenize
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interop.inert import ForeignArray, ForeignImage, ForeignTensor, Refused, kind_of
from harness.interop.limits import Limits
from harness.interop.safe_pickle import budget_for, one_message
from harness.interop.torch_files import read_any

Fact = str | int | float | bool | None
# Exporters write floats a hair outside [0, 1]; a set in other units leaves it by far more.
TOLERANCE = 1 / 512
MOST_ROWS = 2_000_000
LARGEST_LABEL = 1_000_000


@dataclass(frozen=True, eq=False)
class Foreign:
    """What a reader found.

    Attributes:
        arrays: By name, of these: ``images`` uint8 (P, C, H, W); ``labels`` int64 (P,);
            ``base_ids`` int64 (P,); ``base_images``, clean originals where the file has them;
            ``target_images`` uint8 (T, C, H, W) with ``target_labels``; ``patch`` uint8 (C, h, w)
            with ``xy`` int64 (2,), column and row; ``delta`` float32 (C, H, W) in [-1, 1];
            ``norms`` float64 (P,).
        facts: Plain values for the metadata. ``clean_label`` is what is usual in the format, where
            there are no data to compare labels with.
    """

    arrays: dict[str, NDArray[Any]]
    facts: dict[str, Fact] = field(default_factory=dict)


# Files


def read_bytes(path: Path, limits: Limits) -> bytes:
    """Return a file's bytes.

    Raises:
        Refused: If it is missing, no file, or too large.
    """
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise Refused("it is no file")
        if size > limits.file_bytes:
            raise Refused(f"it has {size} bytes; the limit is {limits.file_bytes}")
        return path.read_bytes()
    except OSError as error:
        raise Refused(f"it cannot be read: {error.strerror}") from None


def read_value(path: Path, limits: Limits) -> Any:
    """Return what a pickle or a file of torch holds; nothing in it is run.

    Raises:
        DataError: If it is damaged, too large, or holds anything but data.
    """
    with one_message(str(path)):
        data = read_bytes(path, limits)
        return read_any(data, budget_for(data, limits.operations))


def read_npy(path: Path, limits: Limits) -> NDArray[Any]:
    """Return the array of a ``.npy`` file, mapped and not copied.

    Raises:
        DataError: If it is damaged, holds no numbers, or has other bytes than its header says.
    """
    with one_message(str(path)):
        try:
            size = path.stat().st_size
            if size > limits.file_bytes:
                raise Refused(f"it has {size} bytes; the limit is {limits.file_bytes}")
            with path.open("rb") as file:
                major, _ = np.lib.format.read_magic(file)
                header = (
                    np.lib.format.read_array_header_1_0
                    if major == 1
                    else np.lib.format.read_array_header_2_0
                )
                shape, _, dtype = header(file)
                start = file.tell()
            if dtype.kind not in "biuf" or dtype.itemsize > 8:
                raise Refused(f"it holds {dtype.kind!r} and not numbers")
            if math.prod(shape) * dtype.itemsize != size - start:
                raise Refused(f"its shape {shape} needs another number of bytes than it has")
            array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
            return array
        except OSError as error:
            if error.errno == errno.ENOMEM:
                raise MemoryError from None
            raise Refused(f"it cannot be read: {error}") from None
        except (SyntaxError, tokenize.TokenError):
            raise Refused("its header is no header") from None


# Values → arrays


def array_of(value: Any, what: str) -> NDArray[Any]:
    """Return an array, a tensor, or an image as an array."""
    if not isinstance(value, ForeignArray | ForeignTensor | ForeignImage):
        raise Refused(f"{what} is of type {kind_of(value)} and no array")
    return value.array()


def list_of(value: Any, what: str, least: int = 1) -> list[Any]:
    """Return a list or tuple as a list with at least so many entries."""
    if type(value) not in (list, tuple):
        raise Refused(f"{what} is of type {kind_of(value)} and no list")
    if not least <= len(value) <= MOST_ROWS:
        raise Refused(f"{what} has {len(value)} entries; {least} to {MOST_ROWS} are read")
    return list(value)


def integer(value: Any, what: str) -> int:
    """Return a Python integer, or the one entry of an array of integers."""
    if isinstance(value, ForeignArray | ForeignTensor):
        array = value.array()
        if array.size == 1 and array.dtype.kind in "iu":
            value = int(array.reshape(-1)[0])
    if type(value) is not int or abs(value) >= 2**63:
        raise Refused(f"{what} is of type {kind_of(value)} and no integer")
    return value


def integers(value: Any, what: str) -> NDArray[np.int64]:
    """Return a list, array or tensor of integers as int64 (N,)."""
    if isinstance(value, ForeignArray | ForeignTensor):
        array = value.array()
        if array.dtype.kind not in "iu" or array.ndim != 1:
            raise Refused(f"{what} are {array.dtype} of shape {array.shape}, not integers (N,)")
        return array.astype(np.int64)
    items = list_of(value, what, least=0)
    return np.array([integer(item, f"an entry of {what}") for item in items], np.int64)


def indices(value: Any, what: str, count: int) -> NDArray[np.int64]:
    """Return ``count`` different indices from 0 on."""
    found = integers(value, what)
    if len(found) != count:
        raise Refused(f"{what} are {len(found)}; there are {count} images")
    if count and found.min() < 0:
        raise Refused(f"{what} reach down to {found.min()}")
    if count and found.max() >= 2**40:
        raise Refused(f"{what} reach up to {found.max()}")
    if len(np.unique(found)) != count:
        raise Refused(f"some of {what} stand twice")
    return found


def check_labels(labels: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    """Return labels that may be classes."""
    if len(labels) and not (labels.min() >= 0 and labels.max() <= LARGEST_LABEL):
        raise Refused(f"{what} range from {labels.min()} to {labels.max()}; labels are 0..C-1")
    return labels


def bytes_of_x01(values: NDArray[Any], what: str) -> NDArray[np.uint8]:
    """Return uint8 from floats in units of [0, 1], rounded half up (PIL truncates).

    Raises:
        Refused: If a value is not finite or leaves [0, 1]: then the units are other ones.
    """
    if values.dtype.kind != "f":
        raise Refused(f"{what} are {values.dtype}; floats in [0, 1] are expected")
    if not values.size:
        raise Refused(f"{what} are empty")
    low, high = float(values.min()), float(values.max())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise Refused(f"{what} are not finite")
    if low < -TOLERANCE or high > 1 + TOLERANCE:
        raise Refused(f"{what} reach {low:.4g}..{high:.4g}; floats in [0, 1] are expected")
    return np.clip(np.floor(values * 255.0 + 0.5), 0, 255).astype(np.uint8)


def denormalised(
    z: NDArray[Any], mean: Sequence[float], std: Sequence[float]
) -> NDArray[np.float64]:
    """Return (…, C, H, W) in units of [0, 1] from values normalised per channel."""
    values: NDArray[np.float64] = z.astype(np.float64) * np.reshape(std, (-1, 1, 1)) + np.reshape(
        mean, (-1, 1, 1)
    )
    return values


def check_images(shape: tuple[int, ...], what: str) -> None:
    """Raise unless a shape is (N, C, H, W) with 1 or 3 channels."""
    if len(shape) != 4 or shape[1] not in (1, 3) or 0 in shape:
        raise Refused(f"{what} have the shape {shape}; (N, 1 or 3, H, W) is expected")


def check_total(count: int, each: int, limits: Limits) -> None:
    """Raise before more pixels are made than the limits allow."""
    if count * each > limits.image_bytes:
        raise Refused(
            f"{count} images of {each} bytes are more than the limit of {limits.image_bytes} bytes"
        )


def stacked(items: Sequence[Any], what: str, limits: Limits) -> NDArray[np.uint8]:
    """Return images of one size, pickled as PIL images or uint8 (H, W, C), as (N, C, H, W)."""
    arrays = [array_of(item, f"an entry of {what}") for item in items]
    shape = arrays[0].shape
    for array in arrays:
        if array.dtype != np.uint8 or array.shape != shape:
            raise Refused(
                f"{what} differ: one is uint8 {shape}, another {array.dtype} {array.shape}"
            )
    if len(shape) != 3:
        raise Refused(f"{what} are of shape {shape}; (H, W, C) is expected")
    check_total(len(arrays), arrays[0].size, limits)
    images = np.stack(arrays).transpose(0, 3, 1, 2)
    check_images(images.shape, what)
    return np.ascontiguousarray(images)


def pairs(value: Any, what: str, limits: Limits) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return images and labels of a list of (image, label)."""
    rows = [list_of(item, f"an entry of {what}", 2) for item in list_of(value, what)]
    if any(len(row) != 2 for row in rows):
        raise Refused(f"{what} are no pairs of image and label")
    labels = np.array([integer(row[1], f"a label of {what}") for row in rows], np.int64)
    return stacked([row[0] for row in rows], what, limits), check_labels(
        labels, f"labels of {what}"
    )
