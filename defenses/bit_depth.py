"""Fewer grey levels: small perturbations are rounded away."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook

Rounding = Literal["nearest", "top_bits"]


def level_table(bits: int, rounding: Rounding = "nearest") -> NDArray[np.uint8]:
    """Return uint8 (256,): the stored value that takes each value's place.

    Args:
        bits: Bits that are kept, 1..8.
        rounding: ``nearest`` of 2^bits levels from 0 to 255, or the ``top_bits`` with zeros below.

    >>> sorted(set(level_table(2).tolist()))
    [0, 85, 170, 255]
    >>> sorted(set(level_table(2, "top_bits").tolist()))
    [0, 64, 128, 192]
    """
    values = np.arange(256)
    kept: NDArray[Any]
    if rounding == "top_bits":
        kept = values >> (8 - bits) << (8 - bits)
    else:
        top = 2**bits - 1
        kept = np.floor(np.floor(values * top / 255 + 0.5) * 255 / top + 0.5)
    table: NDArray[np.uint8] = kept.astype(np.uint8)
    return table


@DEFENSES.register(paper="arXiv:1704.01155; arXiv:2301.13838")
@dataclass(frozen=True, slots=True, kw_only=True)
class BitDepth:
    """Keeps a few bits of every pixel (feature squeezing).

    Attributes:
        bits: Bits per channel, 1..7; image shortcut squeezing takes 2.
        rounding: To the ``nearest`` of evenly spaced levels, as in feature squeezing, or
            ``top_bits``, which cuts the others off and darkens.
    """

    bits: int = 2
    rounding: Rounding = "nearest"

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"bits": 3}

    def __post_init__(self) -> None:
        if not 1 <= self.bits <= 7:
            raise DataError(f"bits must lie in 1..7; got {self.bits}.")

    def check(self, train: ImageSet) -> None:
        """Accept any images."""

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows with fewer levels."""
        return train.with_images(level_table(self.bits, self.rounding)[train.images])

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
