"""Procedural pictures of shapes: a dataset that needs no download."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.data import Dataset
from harness.core.errors import DataError
from harness.core.protocols import DATASETS
from harness.core.seeds import stream
from harness.datasets._common import make_dataset

# Double precision: processors that differ in the last bit of a sum still draw the same bytes.
Floats = NDArray[np.float64]
Distance = Callable[[Floats, Floats], Floats]

# Rows are drawn in blocks of this many, each from its own stream and always whole: a row does not
# depend on how many are asked for, and memory stays small.
BLOCK = 250
RADIUS = (0.20, 0.36)  # of a shape, in image sides
SHIFT = 0.12  # largest offset of its centre from the middle, in image sides
CONTRAST = 0.4  # least distance of shape colour and mean background colour, in the RGB unit cube
FIELD = 0.12  # largest deviation of the background field from its mean colour, per channel
TEXTURE = 0.08  # standard deviation of the texture, at half the resolution
NOISE = 0.02  # standard deviation of the pixel noise


def _length(x: Floats, y: Floats) -> Floats:
    length: Floats = np.hypot(x, y)
    return length


def _disc(x: Floats, y: Floats, radius: float = 0.85) -> Floats:
    return _length(x, y) - radius


def _box(x: Floats, y: Floats, half_x: float = 0.72, half_y: float = 0.72) -> Floats:
    across, along = np.abs(x) - half_x, np.abs(y) - half_y
    outside = _length(np.maximum(across, 0), np.maximum(along, 0))
    return outside + np.minimum(np.maximum(across, along), 0)


def _polygon(x: Floats, y: Floats, sides: int, inner: float) -> Floats:
    """Regular polygon as an intersection of half-planes at the distance ``inner``."""
    angles = 2 * np.pi * np.arange(sides) / sides
    planes = [x * np.cos(a) + y * np.sin(a) for a in angles]
    farthest: Floats = np.maximum.reduce(planes)
    return farthest - inner


def _triangle(x: Floats, y: Floats) -> Floats:
    return _polygon(x, y, sides=3, inner=0.5)


def _ring(x: Floats, y: Floats) -> Floats:
    return np.abs(_disc(x, y, 0.68)) - 0.2


def _plus(x: Floats, y: Floats) -> Floats:
    return np.minimum(_box(x, y, 0.95, 0.27), _box(x, y, 0.27, 0.95))


def _star(x: Floats, y: Floats) -> Floats:
    """Five points: one edge, from the tip (1, 0) to the notch, mirrored and turned."""
    sector, notch = 2 * np.pi / 5, 0.42
    angle = np.abs((np.arctan2(y, x) + sector / 2) % sector - sector / 2)
    radius = _length(x, y)
    edge = np.array([notch * np.cos(sector / 2) - 1, notch * np.sin(sector / 2)])
    normal_x, normal_y = edge[::-1] * (1, -1) / np.hypot(*edge)
    across: Floats = (radius * np.cos(angle) - 1) * normal_x + radius * np.sin(angle) * normal_y
    return across


def _bar(x: Floats, y: Floats) -> Floats:
    return _box(x, y, 1.0, 0.26)


def _crescent(x: Floats, y: Floats) -> Floats:
    return np.maximum(_disc(x, y, 0.9), -_disc(x - 0.45, y, 0.72))


def _frame(x: Floats, y: Floats) -> Floats:
    return np.maximum(_box(x, y, 0.78, 0.78), -_box(x, y, 0.44, 0.44))


def _diamond(x: Floats, y: Floats) -> Floats:
    # Half diagonals 1 and 0.5: with equal ones it would be a turned box.
    return (np.abs(x) * 0.5 + np.abs(y) - 0.5) / math.hypot(1, 0.5)


def _hexagon(x: Floats, y: Floats) -> Floats:
    return _polygon(x, y, sides=6, inner=0.8)


def _ellipse(x: Floats, y: Floats) -> Floats:
    # The level set divided by its slope: a distance wherever the edge is near.
    u, v = x, y / 0.55
    level, slope = _length(u, v), _length(u, v / 0.55)
    return level * (level - 1) / np.maximum(slope, 1e-6)


def _heart(x: Floats, y: Floats) -> Floats:
    # A square and a disc on each of two sides that meet, moved to the middle.
    x, y = x + 0.2, y + 0.2
    lobes = np.minimum(_disc(x, y - 0.5, 0.5), _disc(x - 0.5, y, 0.5))
    return np.minimum(_box(x, y, 0.5, 0.5), lobes)


def _arrow(x: Floats, y: Floats) -> Floats:
    shaft = _box(x + 0.4, y, 0.55, 0.2)
    return np.minimum(shaft, _polygon(-(x - 0.35), y, sides=3, inner=0.33))


def _arch(x: Floats, y: Floats) -> Floats:
    y = y + 0.35
    return np.maximum(np.abs(_disc(x, y, 0.75)) - 0.22, -y)


def _segment(x: Floats, y: Floats, start: complex, end: complex) -> Floats:
    """Distance to a straight line between two points, x + iy."""
    edge = end - start
    along = ((x - start.real) * edge.real + (y - start.imag) * edge.imag) / abs(edge) ** 2
    along = np.clip(along, 0, 1)
    return _length(x - start.real - along * edge.real, y - start.imag - along * edge.imag)


def _zigzag(x: Floats, y: Floats) -> Floats:
    corners = (-0.9 - 0.45j, -0.3 + 0.45j, 0.3 - 0.45j, 0.9 + 0.45j)
    lines = [_segment(x, y, start, end) for start, end in pairwise(corners)]
    nearest: Floats = np.minimum.reduce(lines)
    return nearest - 0.15


# Signed distance to each shape's edge, in units of its radius: negative inside. No two shapes of
# a kind are equal up to a turn or a mirror image, which the random draws would hide.
SHAPES: Mapping[str, Mapping[str, Distance]] = {
    "classes": {
        "disc": _disc,
        "box": _box,
        "triangle": _triangle,
        "ring": _ring,
        "plus": _plus,
        "star": _star,
        "bar": _bar,
        "crescent": _crescent,
        "frame": _frame,
        "diamond": _diamond,
    },
    "pood": {
        "hexagon": _hexagon,
        "ellipse": _ellipse,
        "heart": _heart,
        "arrow": _arrow,
        "arch": _arch,
        "zigzag": _zigzag,
    },
}


def _enlarge(field: Floats, size: int) -> Floats:
    """Return (N, 3, size, size) from (N, 3, h, h) by linear interpolation."""
    cells = field.shape[-1]
    at = np.clip((np.arange(size) + 0.5) * cells / size - 0.5, 0, cells - 1)
    weights: Floats = np.clip(1 - np.abs(at[:, None] - np.arange(cells)), 0, 1)
    return weights @ field @ weights.T


def _colours(rng: np.random.Generator, rows: int) -> tuple[Floats, Floats]:
    """Return background and shape colours (N, 3): the first of 16 draws that stands out."""
    background = rng.uniform(0.2, 0.8, (rows, 1, 3))
    drawn = rng.uniform(0.02, 0.98, (rows, 16, 3))
    distance = np.linalg.norm(drawn - background, axis=2)
    visible = distance >= CONTRAST
    choice = np.where(visible.any(1), visible.argmax(1), distance.argmax(1))
    shape = drawn[np.arange(rows), choice]
    return background[:, 0], shape


def _coverage(
    rng: np.random.Generator, labels: NDArray[np.int64], shapes: Mapping[str, Distance], size: int
) -> Floats:
    """Return how much of each pixel a shape covers, (N, 1, size, size) in [0, 1]."""
    radius, turn, shift_x, shift_y = (
        rng.uniform(low, high, (len(labels), 1, 1))
        for low, high in (RADIUS, (0, 2 * np.pi), (-SHIFT, SHIFT), (-SHIFT, SHIFT))
    )
    axis = (np.arange(size) + 0.5) / size - 0.5
    x, y = (axis[None, None] - shift_x) / radius, (axis[None, :, None] - shift_y) / radius
    cos, sin = np.cos(turn), np.sin(turn)
    x, y = cos * x + sin * y, cos * y - sin * x
    covered = np.empty((len(labels), 1, size, size))
    for label, distance in enumerate(shapes.values()):
        rows = labels == label
        # Half a pixel inside the edge is covered wholly: an anti-aliased edge of one pixel.
        covered[rows, 0] = np.clip(0.5 - distance(x[rows], y[rows]) * radius[rows] * size, 0, 1)
    return covered


def _draw(
    rng: np.random.Generator, labels: NDArray[np.int64], shapes: Mapping[str, Distance], size: int
) -> NDArray[np.uint8]:
    """Return one picture per label, uint8 (N, 3, size, size)."""
    rows = len(labels)
    covered = _coverage(rng, labels, shapes, size)
    ground, colour = _colours(rng, rows)
    field = rng.uniform(-FIELD, FIELD, (rows, 3, 4, 4))
    texture = rng.standard_normal((rows, 3, size // 2, size // 2))
    noise = rng.standard_normal((rows, 3, size, size))
    behind = ground[:, :, None, None] + _enlarge(field, size)
    image = behind + covered * (colour[:, :, None, None] - behind)
    image += TEXTURE * _enlarge(texture, size) + NOISE * noise
    return np.floor(image * 255 + 0.5).clip(0, 255).astype(np.uint8)


@DATASETS.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class Shapes:
    """Shapes of ten kinds in random colours on a textured background, drawn when asked for.

    Position, size, turn and colours are random, edges are anti-aliased. Row ``i`` has class
    ``i mod C`` and stays the same whatever the number of rows.

    Attributes:
        kind: ``classes`` are ten shapes to classify; ``pood`` are six others, public images out of
            their distribution on which a generator or a surrogate is trained.
        train: Rows of the training set.
        test: Rows of the test set.
        seed: Of all random draws.
        size: Side of an image, in pixels; even.
    """

    kind: Literal["classes", "pood"] = "classes"
    train: int = 2000
    test: int = 1000
    seed: int = 0
    size: int = 32

    example: ClassVar[Mapping[str, Any] | None] = {"train": 40, "test": 20}

    def __post_init__(self) -> None:
        if self.train < 1 or self.test < 0:
            raise DataError(
                f"train must be at least 1 and test not negative; got {self.train} and {self.test}."
            )
        if self.size < 8 or self.size % 2:
            raise DataError(f"size must be an even number of at least 8; got {self.size}.")
        if self.seed < 0:
            raise DataError(f"seed must not be negative; got {self.seed}.")

    def load(self) -> Dataset:
        """Draw the training and the test set."""
        train, train_labels = self._split("train", self.train)
        test, test_labels = self._split("test", self.test)
        return make_dataset(train, train_labels, test, test_labels, tuple(SHAPES[self.kind]))

    def _split(self, split: str, rows: int) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        shapes = SHAPES[self.kind]
        images = np.empty((rows, 3, self.size, self.size), np.uint8)
        for start in range(0, rows, BLOCK):
            rng = stream(self.seed, "shapes", self.kind, split, start // BLOCK)
            labels = np.arange(start, start + BLOCK) % len(shapes)
            block = _draw(rng, labels, shapes, self.size)
            images[start : start + BLOCK] = block[: rows - start]
        return images, np.arange(rows) % len(shapes)
