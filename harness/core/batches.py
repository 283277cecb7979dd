"""Rows go through networks batch by batch; by fewer at once where so many do not fit in memory."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import torch

from harness.core.device import ALIKE_ROWS

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AtMost:
    """So many rows at once, or as many of them as fit in memory: a number nobody asked for."""

    rows: int


class Batches:
    """Cuts rows into batches, smaller ones from where one did not fit in memory.

    Args:
        count: How many rows there are.
        size: Rows of a batch. A plain number is what somebody asked for, and is kept: who measures,
            or knows the memory, would rather hear that it does not fit. :class:`AtMost` is halved
            after ``torch.OutOfMemoryError``, down to :data:`ALIKE_ROWS`.
    """

    def __init__(self, count: int, size: int | AtMost) -> None:
        self._count, self._shrink = count, isinstance(size, AtMost)
        self._rows = size.rows if isinstance(size, AtMost) else size

    def each(self, work: Callable[[slice], object]) -> None:
        """Call ``work`` for each batch, in order; the next call begins with the size that worked.

        Where memory did not suffice, it is called again from the same row on. So it begins afresh
        each time, and what it leaves behind is the last that it does.

        Raises:
            torch.OutOfMemoryError: If so many do not fit, and no fewer are tried.
        """
        start, too_many = 0, 0
        while start < self._count:
            stop = min(start + self._rows, self._count)
            try:
                work(slice(start, stop))
            except torch.OutOfMemoryError:
                if not self._shrink or stop - start <= ALIKE_ROWS:
                    raise
            else:
                if too_many:
                    _warn(too_many, self._rows)
                start, too_many = stop, 0
                continue
            # Not in the handler: only here are the error and the tensors of its frames gone.
            too_many = too_many or stop - start
            self._rows = max(ALIKE_ROWS, (stop - start) // 2 // ALIKE_ROWS * ALIKE_ROWS)
            torch.cuda.empty_cache()  # without CUDA it does nothing


@cache  # once in a process, which may work through many blocks of rows
def _warn(too_many: int, rows: int) -> None:
    logger.warning("%d images at once do not fit in memory; went on with %d", too_many, rows)
