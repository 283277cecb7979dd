"""No defense: the row that every other one is compared with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.core.data import ImageSet
from harness.core.protocols import DEFENSES, TrainingHook


@DEFENSES.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class NoDefense:
    """Trains on whatever the attacker left: the undefended victim."""

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {}

    def check(self, train: ImageSet) -> None:
        """Accept any data."""

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the set itself."""
        return train

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
