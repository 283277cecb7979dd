"""An oracle: the ceiling of every defense that leaves rows out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, Defense, TrainingHook


@DEFENSES.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class PerfectFilter:
    """Leaves out exactly the poisoned rows: an oracle that is told which, no defense to be had.

    It shows what is lost by the rows alone, and is the ceiling of every filter.
    """

    rowwise: ClassVar[bool] = False
    example: ClassVar[Mapping[str, Any]] = {}

    def check(self, train: ImageSet) -> None:
        """Accept any data."""

    def told(self, poison_ids: NDArray[np.int64]) -> Defense:
        """Return the filter of these rows."""
        return _Filter(poison_ids)

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Raise: an oracle has to be told.

        Raises:
            DataError: Always.
        """
        raise DataError("an oracle stands alone, not in a chain: only the harness can tell it.")

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()


@dataclass(frozen=True, slots=True)
class _Filter:
    poison_ids: NDArray[np.int64]

    rowwise: ClassVar[bool] = False
    example: ClassVar[Mapping[str, Any]] = {}

    def check(self, train: ImageSet) -> None:
        """Accept any data."""

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the rows that the attacker left alone.

        Raises:
            DataError: If there are none.
        """
        kept = train.take(~np.isin(train.ids, self.poison_ids))
        if not len(kept):
            raise DataError("every row is poisoned; a perfect filter leaves nothing to train on.")
        return kept

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
