"""No attack: the control that every other row is read against."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.protocols import ATTACKS, Bounds


@ATTACKS.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class NoAttack:
    """Leaves the training set as it is; its trials give clean accuracy and the clean floor."""

    goal: ClassVar[Goal] = "none"
    target_field: ClassVar[str | None] = None
    example: ClassVar[Mapping[str, Any]] = {}

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Accept any data."""

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that nothing changes."""
        return Bounds(rows=0, eps_255=0, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Return the training set itself."""
        return PoisonedSet(train, np.empty(0, np.int64), (), self.goal)
