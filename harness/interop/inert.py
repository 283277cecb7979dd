"""What a foreign pickle may hold besides numbers, text and containers: values that do nothing.

They stand for images, arrays and tensors. None calls or imports what the file names; each checks
its sizes before it makes an array, and none copies, so that a file cannot cost more than it weighs.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.errors import DataError

MODES = {"L": 1, "RGB": 3}
LARGEST_SIDE = 4096
LARGEST_RANK = 8
_DTYPE = re.compile(r"b1|[iu][1248]|f[248]")


class Refused(DataError):
    """A foreign file asks for something that reading data does not need."""


def kind_of(value: Any) -> str:
    """Return a value's type for a message; the value itself may be endless."""
    return type(value).__name__


def _sizes(value: Any, what: str) -> tuple[int, ...]:
    ok = type(value) is tuple and all(type(v) is int and v >= 0 for v in value)
    if not ok or len(value) > LARGEST_RANK:
        raise Refused(f"{what} is no tuple of up to {LARGEST_RANK} sizes")
    return tuple(value)


class ForeignImage:
    """Pixels of a pickled ``PIL.Image.Image``; Pillow itself, and its decoders, stay out of it."""

    def __init__(self) -> None:
        self.pixels: NDArray[np.uint8] | None = None

    def build(self, state: Any) -> None:
        """Take the 5-item state: info, mode, (width, height), palette, raw bytes."""
        if self.pixels is not None or type(state) is not list or len(state) != 5:
            raise Refused("the state of an image is no list of 5 items, given once")
        _, mode, size, _, raw = state
        if type(mode) is not str or mode not in MODES:
            raise Refused(f"an image has another mode than {' or '.join(MODES)}")
        sides = _sizes(size, "the size of an image")
        if len(sides) != 2 or not all(1 <= side <= LARGEST_SIDE for side in sides):
            raise Refused(f"an image is not of 1 to {LARGEST_SIDE} pixels a side")
        shape = (sides[1], sides[0], MODES[mode])
        if type(raw) is not bytes or len(raw) != math.prod(shape):
            raise Refused(f"an image of {shape} has not so many bytes")
        self.pixels = np.frombuffer(raw, np.uint8).reshape(shape)

    def array(self) -> NDArray[np.uint8]:
        """Return uint8 (H, W, C), read-only."""
        if self.pixels is None:
            raise Refused("an image has no pixels")
        return self.pixels


class ForeignDtype:
    """A number type of numpy: a boolean, integer or float, no object and no record."""

    def __init__(self, code: Any) -> None:
        if type(code) is not str or not _DTYPE.fullmatch(code):
            raise Refused("an array has another type than numbers")
        self.dtype = np.dtype(code)

    def build(self, state: Any) -> None:
        """Take the byte order from numpy's 8-item state."""
        ok = type(state) is tuple and len(state) == 8 and state[2:5] == (None,) * 3
        if not ok or type(state[1]) is not str or state[1] not in ("<", ">", "|", "="):
            raise Refused("an array has another type than numbers")
        self.dtype = self.dtype.newbyteorder(state[1])  # type: ignore[arg-type]


class ForeignArray:
    """A numpy array of numbers."""

    def __init__(self) -> None:
        self._values: NDArray[Any] | None = None

    def build(self, state: Any) -> None:
        """Take numpy's 5-item state: version, shape, type, column-major, raw bytes."""
        if type(state) is not tuple or len(state) != 5 or type(state[3]) is not bool:
            raise Refused("the state of an array is no tuple of 5 items")
        self.fill(state[4], state[2], state[1], "F" if state[3] else "C")

    def fill(self, raw: Any, dtype: Any, shape: Any, order: Any) -> None:
        """Take the bytes; as many as type and shape say."""
        sizes = _sizes(shape, "the shape of an array")
        if self._values is not None or type(dtype) is not ForeignDtype or order not in ("C", "F"):
            raise Refused("an array is built from something else than type, shape and bytes")
        if type(raw) is not bytes or len(raw) != math.prod(sizes) * dtype.dtype.itemsize:
            raise Refused(f"an array of {sizes} has not so many bytes")
        self._values = np.frombuffer(raw, dtype.dtype).reshape(sizes, order=order)

    def array(self) -> NDArray[Any]:
        """Return the array, read-only."""
        if self._values is None:
            raise Refused("an array has no values")
        return self._values


@dataclass(slots=True)
class ForeignStorage:
    """The numbers that tensors of torch look into; older files name them before they come."""

    dtype: np.dtype[Any]
    count: int
    raw: bytes | None = None

    def fill(self, raw: bytes) -> None:
        """Take the bytes; as many as the file promised."""
        if len(raw) != self.count * self.dtype.itemsize:
            raise Refused(f"a storage of {self.count} numbers has {len(raw)} bytes")
        self.raw = raw


@dataclass(frozen=True, slots=True)
class ForeignTensor:
    """A tensor of torch: a window into a storage."""

    storage: ForeignStorage
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]

    @classmethod
    def of(cls, arguments: tuple[Any, ...]) -> ForeignTensor:
        """Take the arguments of ``_rebuild_tensor_v2``; gradients and hooks are left out."""
        if len(arguments) < 4 or type(arguments[0]) is not ForeignStorage:
            raise Refused("a tensor is built from something else than a storage")
        storage, offset, size, stride = arguments[:4]
        tensor = cls(storage, offset, _sizes(size, "a size"), _sizes(stride, "a stride"))
        tensor.check()
        return tensor

    def check(self) -> None:
        """Raise if the window leaves the storage, or is larger than it (an expanded view)."""
        if type(self.offset) is not int or self.offset < 0 or len(self.size) != len(self.stride):
            raise Refused("a tensor has an impossible offset or stride")
        count = math.prod(self.size)
        last = sum((n - 1) * step for n, step in zip(self.size, self.stride, strict=True))
        if count and (self.offset + last >= self.storage.count or count > self.storage.count):
            raise Refused(f"a tensor of {self.size} leaves its {self.storage.count} numbers")

    def array(self) -> NDArray[Any]:
        """Return the numbers as a read-only array."""
        if self.storage.raw is None:
            raise Refused("a tensor has no numbers")
        flat = np.frombuffer(self.storage.raw, self.storage.dtype)[self.offset :]
        steps = [step * self.storage.dtype.itemsize for step in self.stride]
        if not math.prod(self.size):
            return np.empty(self.size, self.storage.dtype)
        return np.lib.stride_tricks.as_strided(flat, self.size, steps, writeable=False)
