"""BadNets: a fixed patch in a corner and another label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks._triggered import check_label, choose_rows, triggered_probes
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.protocols import ATTACKS, Bounds


def stamp_patch(images: NDArray[np.uint8], size_px: int, margin_px: int) -> NDArray[np.uint8]:
    """Return a copy of (N, C, H, W) with a white square in the bottom right corner."""
    stamped = images.copy()
    bottom, right = (side - margin_px for side in images.shape[2:])
    stamped[:, :, bottom - size_px : bottom, right - size_px : right] = 255
    return stamped


@ATTACKS.register(paper="arXiv:1708.06733")
@dataclass(frozen=True, slots=True, kw_only=True)
class BadNets:
    """Stamps a white patch on a share of the training set and gives these rows its label.

    Dirty-label: the poisons are random rows of the other classes. At test time every image with
    the patch shall get ``adv_label``.

    Attributes:
        adv_label: Label that the attacker wants to see.
        budget: Share of the training set that is poisoned, in (0, 1].
        size_px: Side of the patch.
        margin_px: Distance of the patch from the image's border; crops cut off what lies there.
    """

    adv_label: int
    budget: float = 0.05
    size_px: int = 3
    margin_px: int = 0

    goal: ClassVar[Goal] = "triggered"
    target_field: ClassVar[str | None] = "adv_label"
    example: ClassVar[Mapping[str, Any]] = {"adv_label": 0, "size_px": 4, "margin_px": 4}

    def __post_init__(self) -> None:
        if not 0 < self.budget <= 1:
            raise DataError(f"budget is a share in (0, 1]; got {self.budget}.")
        if self.size_px < 1 or self.margin_px < 0:
            raise DataError("size_px must be at least 1, and margin_px must not be negative.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check label, patch and number of rows against the data."""
        check_label(self.adv_label, train)
        side = min(train.image_shape[1:])
        if self.size_px + self.margin_px > side:
            raise DataError(f"a patch of {self.size_px} + {self.margin_px} px leaves {side} px.")
        others = int(np.sum(train.labels != self.adv_label))
        if self._count(train) > others:
            raise DataError(
                f"budget {self.budget} asks for {self._count(train)} poisons; "
                f"there are {others} rows of other classes."
            )

    def _count(self, train: ImageSet) -> int:
        return max(1, round(self.budget * len(train)))

    def bounds(self, train: ImageSet) -> Bounds:
        """Return the number of poisons; a patch has no Linf bound."""
        return Bounds(rows=self._count(train), eps_255=None, keeps_labels=False)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Stamp and relabel random rows of other classes; probe all other test images."""
        self.check(train, test)
        others = np.flatnonzero(train.labels != self.adv_label)
        rows = choose_rows(others, self._count(train), "random", rng)
        images, labels = train.images.copy(), train.labels.copy()
        images[rows] = stamp_patch(images[rows], self.size_px, self.margin_px)
        labels[rows] = self.adv_label
        poisoned = ImageSet(images, labels, train.ids, train.num_classes)
        probes = triggered_probes(
            test,
            self.adv_label,
            [("x1", lambda u8: stamp_patch(u8, self.size_px, self.margin_px))],
        )
        return PoisonedSet(poisoned, train.ids[rows], probes, self.goal)
