"""Several defenses, one after the other."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, Defense, TrainingHook
from harness.core.seeds import stream, subseed


@DEFENSES.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """Purifies with each of its parts in turn, and trains with the hooks of one of them.

    Between parts, images are rounded to bytes; PureGen-Naive and -Reps are defenses of their own
    because they are not.

    Attributes:
        parts: Two defenses or more; at most one acts in the training.
    """

    parts: tuple[Defense, ...]

    rowwise: ClassVar[bool] = True  # where all its parts are; the harness asks each
    example: ClassVar[Mapping[str, Any]] = {
        "parts": [{"name": "jpeg", "quality": 50}, {"name": "jpeg", "quality": 25}]
    }

    def __post_init__(self) -> None:
        if len(self.parts) < 2:
            raise DataError(f"a chain has at least two parts; got {len(self.parts)}.")

    def check(self, train: ImageSet) -> None:
        """Check each part, and that no two act in the training."""
        for part in self.parts:
            part.check(train)
        self.hooks()

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return what the parts leave, each with a random stream of its own."""
        seed = subseed(rng)
        for position, part in enumerate(self.parts):
            train = part.purify(train, stream(seed, "part", position))
        return train

    def hooks(self) -> Sequence[TrainingHook]:
        """Return the hooks of the part that acts in the training."""
        acting = [hooks for part in self.parts if (hooks := part.hooks())]
        if len(acting) > 1:
            raise DataError(f"at most one part of a chain acts in the training; {len(acting)} do.")
        return acting[0] if acting else ()
