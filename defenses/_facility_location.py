"""Greedy facility location: a few rows that stand for all, and which row each one stands for.

The gain of a row j is ``sum_i max(0, S_ij - best_i)``, where ``best_i`` is the similarity of row i
to the medoid nearest to it so far. A new medoid changes ``best`` in few rows only, and with it only
their terms of every gain: these are corrected, nothing else is touched. A row's nearest medoid
changes about log(budget) times in all, so that the whole selection costs some ten passes over the
matrix of similarities, where computing the gains afresh costs one per medoid. So few passes allow
for making the rows anew each time, and the matrix need not be held at all.

Similarities are rounded to whole multiples of 2^-24, which is what float32 has in [0.5, 1] anyway.
Then every sum of them is exact in float64: gains depend neither on the order of the corrections nor
on the size of a block, and ties are ties.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from harness.core.errors import DataError

UNIT = 2.0**-24
SCRATCH = {"cpu": 2**18, "cuda": 2**24}  # elements of a block: what caches hold; what fills a GPU
BYTES_PER_ELEMENT = 16  # of a block: similarities, differences, and their copy in float64
MIB = 2**20


@dataclass(frozen=True, slots=True)
class Clusters:
    """Medoids and the rows that they stand for, on the device of the rows.

    Attributes:
        medoids: int64 (budget,), positions of rows in the order of their selection.
        gains: float64 (budget,), by how much each raised the objective; their sum is its value.
        cluster: int64 (n,), for each row the place in ``medoids`` of the medoid most similar to
            it, the first of several.
    """

    medoids: Tensor
    gains: Tensor
    cluster: Tensor

    def sizes(self) -> Tensor:
        """Return the number of rows of each cluster, int64 (budget,)."""
        return torch.bincount(self.cluster, minlength=len(self.medoids))


class Similarity:
    """exp(-||a - b|| / d) of n rows with d features, whole or block by block.

    The distance is not squared and is summed over differences: the matrix product that expands the
    square cancels what distinguishes near rows (defenses.md 15: EPIC, submodlib's dense kernel).

    Args:
        points: float (n, d).
        memory_mib: Most memory to use, in MiB; the matrix is held if it fits, else no part of it.
    """

    def __init__(self, points: Tensor, memory_mib: int) -> None:
        self.columns = points.float().T.contiguous()
        self.n = len(points)
        scratch = SCRATCH.get(points.device.type, SCRATCH["cpu"])
        self.block = max(1, min(scratch, memory_mib * MIB // BYTES_PER_ELEMENT) // self.n)
        self.held = self._all() if 4 * self.n**2 <= memory_mib * MIB else None

    def _all(self) -> Tensor:
        held = self.columns.new_empty((self.n, self.n))
        for rows in self.blocks(torch.arange(self.n, device=held.device)):
            held[rows] = self._make(rows)
        return held

    def _make(self, rows: Tensor) -> Tensor:
        out = self.columns.new_zeros((len(rows), self.n))
        difference = torch.empty_like(out)
        for column in self.columns:
            torch.sub(column[rows, None], column, out=difference)
            out.addcmul_(difference, difference)
        out.sqrt_().mul_(-1 / len(self.columns)).exp_()
        return out.mul_(1 / UNIT).round_().mul_(UNIT)

    def blocks(self, rows: Tensor) -> Iterator[Tensor]:
        """Yield rows in parts whose similarities fit the scratch memory."""
        for start in range(0, len(rows), self.block):
            yield rows[start : start + self.block]

    def __call__(self, rows: Tensor) -> Tensor:
        """Return similarities of some rows to all, float32 (len(rows), n), a copy."""
        return self._make(rows) if self.held is None else self.held[rows]


def facility_location(points: Tensor, budget: int, *, memory_mib: int = 1536) -> Clusters:
    """Choose ``budget`` rows one after the other, each of the largest gain.

    Of several with the same gain it takes the last, as the lazy greedy optimiser of submodlib does
    where they are on top of its heap. It does not stop when gains are 0.

    Args:
        points: Float (n, d); rows of one class.
        budget: Number of medoids, 1..n.
        memory_mib: Most memory, in MiB; the default holds the matrix of 20,000 rows.

    Raises:
        DataError: If the budget is not in 1..n, or a value is not finite.
    """
    n = len(points)
    if not 1 <= budget <= n:
        raise DataError(f"budget must lie in 1..{n}, the number of rows; got {budget}.")
    if not bool(torch.isfinite(points).all()):
        raise DataError("facility location needs finite values; some are infinite or no numbers.")
    similarity = Similarity(points, memory_mib)
    rows = torch.arange(n, device=points.device)
    gains = torch.zeros(n, dtype=torch.float64, device=points.device)
    for block in similarity.blocks(rows):
        gains += similarity(block).double().sum(0)
    best = torch.zeros(n, device=points.device)
    cluster = torch.zeros_like(rows)
    medoids = torch.empty(budget, dtype=torch.int64, device=points.device)
    values = torch.empty(budget, dtype=torch.float64, device=points.device)
    for step in range(budget):
        medoid = n - 1 - gains.flip(0).argmax().reshape(1)  # argmax gives the first of equals
        # By tensors of one row: a number would have to be waited for on a GPU.
        medoids[step], values[step] = medoid[0], gains[medoid][0]
        near = similarity(medoid)[0]
        changed = (near > best).nonzero().squeeze(1)
        for block in similarity.blocks(changed):
            low, high = best[block], near[block]
            part = similarity(block).clamp_(low[:, None], high[:, None])
            gains -= part.double().sum(0) - low.double().sum()
        best[changed], cluster[changed] = near[changed], step
        gains[medoid] = -torch.inf  # stays so: what is subtracted is finite
    return Clusters(medoids, values, cluster)
