"""Several workers that train one network: what each does of an update, and what they exchange.

Each worker draws the random numbers of the whole batch from the same generator and computes its
rows of it, so that any number of workers computes the update of one, up to rounding. Who starts
the processes is not known here.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.distributed
from torch import Tensor

from harness.core.errors import DataError


@dataclass(frozen=True, slots=True)
class Workers:
    """The workers of a training, seen from one of them; as it stands, that one is alone.

    Attributes:
        rank: Which of them this one is, in 0..count-1; the first writes checkpoints.
        count: How many there are.
    """

    rank: int = 0
    count: int = 1

    def share(self, rows: int) -> slice:
        """Return which rows of a batch are this worker's: fixed, consecutive, equally many.

        Raises:
            DataError: If they cannot be shared equally.
        """
        check_share(rows, self.count)
        each = rows // self.count
        return slice(self.rank * each, (self.rank + 1) * each)

    def part(self, rows: int) -> slice:
        """Return which rows of a batch are this worker's: consecutive, nearly equally many."""
        first, last = (place * rows // self.count for place in (self.rank, self.rank + 1))
        return slice(first, last)

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their mean over all workers, in place; all get the same bits."""

    def join(self, rows: Tensor) -> Tensor:
        """Return the rows of all workers, (count * B, ...), in the order of their ranks."""
        return rows


_together: ContextVar[tuple[Workers, list[Workers]]] = ContextVar("together")


@contextmanager
def together(workers: Workers) -> Iterator[list[Workers]]:
    """Let trainings in this block share their updates; yields a list of those that did.

    A block and no argument, so that a generator's ``train`` is the same for one worker and many:
    what does not know of workers trains alone in each of them, and the list stays empty.
    """
    taken_part: list[Workers] = []
    before = _together.set((workers, taken_part))
    try:
        yield taken_part
    finally:
        _together.reset(before)


def take_part() -> Workers:
    """Return the workers with whom to share a training; by default this one is alone."""
    workers, taken_part = _together.get((Workers(), []))
    taken_part.append(workers)
    return workers


class ProcessGroup(Workers):
    """Workers that are the processes of torch's default process group, whatever its backend."""

    __slots__ = ()

    @classmethod
    def here(cls) -> ProcessGroup:
        """Return the group that this process has joined."""
        return cls(torch.distributed.get_rank(), torch.distributed.get_world_size())

    def average(self, tensors: Sequence[Tensor]) -> None:
        """Send all tensors as one: one exchange costs less than many."""
        flat = torch.cat([t.reshape(-1) for t in tensors])
        torch.distributed.all_reduce(flat)
        flat.div_(self.count)
        parts = torch.split(flat, [t.numel() for t in tensors])
        for tensor, mean in zip(tensors, parts, strict=True):
            tensor.copy_(mean.view(tensor.shape))

    def join(self, rows: Tensor) -> Tensor:
        """Gather the rows of all workers."""
        rows = rows.contiguous()
        parts = [torch.empty_like(rows) for _ in range(self.count)]
        torch.distributed.all_gather(parts, rows)
        return torch.cat(parts)


def check_share(rows: int, count: int) -> None:
    """Check that workers can share a batch equally.

    Raises:
        DataError: If not; names the next sizes that would do.
    """
    if rows % count:
        below, above = rows // count * count, -(-rows // count) * count
        near = " or ".join(str(n) for n in (below, above) if n)
        raise DataError(
            f"a batch of {rows} cannot be shared equally by {count} workers; batch_size {near} can."
        )


def gradients(parameters: Sequence[Tensor]) -> list[Tensor]:
    """Return the gradients that a backward pass has left."""
    return [p.grad for p in parameters if p.grad is not None]
