"""Which rows an update of a training takes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from harness.core.seeds import Purpose, stream


class RowOrder:
    """Rows of each update: a fresh permutation per epoch, so that none is left out.

    They depend on the arguments and the number of the update alone, so that a training that goes
    on needs no stored order. Rows that fill no batch wait for another epoch.

    Args:
        count: Rows of the data, at least ``batch_size``.
        batch_size: Rows per update.
        seed: Seed of the training.
        purpose: What the numbers are for; see :func:`harness.core.seeds.stream`.
    """

    def __init__(self, count: int, batch_size: int, seed: int, *purpose: Purpose) -> None:
        self._count, self._size = count, batch_size
        self._seed, self._purpose = seed, purpose
        self._epoch = -1
        self._order: NDArray[np.int64] = np.empty(0, np.int64)

    def rows(self, iteration: int) -> NDArray[np.int64]:
        """Return the rows of an update, int64 (batch_size,); updates are counted from 0."""
        epoch, batch = divmod(iteration, self._count // self._size)
        if epoch != self._epoch:
            source = stream(self._seed, *self._purpose, epoch)
            self._epoch, self._order = epoch, source.permutation(self._count)
        return self._order[batch * self._size : (batch + 1) * self._size]
