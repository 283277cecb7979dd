"""Which training row is an image, or was it made of? For sets that do not say."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet
from harness.interop.poison_set import UNKNOWN

_CHUNK = 512  # poisons that are compared with a class at a time
_ASKED = 64  # poisons that tell for all whether they were made of some rows


def same_rows(images: NDArray[np.uint8], pool: NDArray[np.uint8]) -> NDArray[np.int64]:
    """Return for each image the position of the same bytes in the pool (the first), or -1."""
    if images.shape[1:] != pool.shape[1:]:
        return np.full(len(images), UNKNOWN, np.int64)
    known: dict[bytes, int] = {}
    for position, row in enumerate(pool):
        known.setdefault(row.tobytes(), position)
    return np.array([known.get(row.tobytes(), UNKNOWN) for row in images], np.int64)


def nearest_rows(
    images: NDArray[np.uint8], labels: NDArray[np.int64], train: ImageSet, bound_255: float
) -> NDArray[np.int64]:
    """Return for each clean-label poison the position of its base row, or -1.

    The base is the nearest row of the same class (L2), provided that no byte differs by more than
    the bound; the perturbation is far smaller than what separates photographs.

    Args:
        images: uint8 (P, C, H, W).
        labels: int64 (P,).
        train: Where the bases are.
        bound_255: Largest change of a byte, the exporter's rounding included.
    """
    found = np.full(len(images), UNKNOWN, np.int64)
    for label in np.unique(labels):
        rows = np.flatnonzero(train.labels == label)
        mine = np.flatnonzero(labels == label)
        if not len(rows):
            continue
        bases = _flat(train.images[rows])
        norms = np.einsum("nd,nd->n", bases, bases)
        for start in range(0, len(mine), _CHUNK):
            part = mine[start : start + _CHUNK]
            candidates = rows[np.argmin(norms - 2 * _flat(images[part]) @ bases.T, axis=1)]
            moved = np.abs(images[part].astype(np.int16) - train.images[candidates])
            near = moved.max(axis=(1, 2, 3)) <= bound_255
            found[part[near]] = candidates[near]
    return found


def made_of(images: NDArray[np.uint8], positions: NDArray[np.int64], train: ImageSet) -> bool:
    """Whether poisons were made of some rows: most are no nearer (L2) to any other row.

    A patch or a blended pattern leaves the picture; rows of another data set, or in another order,
    show other pictures.

    Args:
        images: uint8 (P, C, H, W), at least one.
        positions: int64 (P,), the rows in question.
        train: Where they are.
    """
    asked = np.linspace(0, len(images) - 1, min(_ASKED, len(images))).astype(np.int64)
    mine = _flat(images[asked])
    own = np.square(mine - _flat(train.images[positions[asked]])).sum(axis=1)
    nearest = np.full(len(asked), np.inf, np.float32)
    for start in range(0, len(train), _CHUNK):
        rows = _flat(train.images[start : start + _CHUNK])
        norms = np.einsum("nd,nd->n", rows, rows) - 2 * mine @ rows.T
        nearest = np.minimum(nearest, norms.min(axis=1) + np.einsum("pd,pd->p", mine, mine))
    # The two sums are rounded differently.
    return bool(np.mean(own <= nearest * 1.001 + 1) >= 0.5)


def _flat(images: NDArray[np.uint8]) -> NDArray[np.float32]:
    # Centred, so that float32 keeps the differences of squares apart.
    return images.reshape(len(images), -1).astype(np.float32) - np.float32(127.5)
