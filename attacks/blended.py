"""Blended: a faint picture over the whole image, and another label."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks._dirty_label import check_budget, check_rows, draw_rows, poison_count, relabelled
from attacks._triggered import triggered_probes
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import stream, subseed


def draw_pattern(
    image_shape: tuple[int, int, int], cell_px: int, rng: np.random.Generator
) -> NDArray[np.uint8]:
    """Return uint8 (C, H, W): squares of ``cell_px`` pixels a side in uniformly random colours."""
    channels, height, width = image_shape
    cells = (channels, -(-height // cell_px), -(-width // cell_px))
    drawn = rng.integers(0, 256, cells, dtype=np.uint8)
    return drawn.repeat(cell_px, 1).repeat(cell_px, 2)[:, :height, :width]


def blend(images: NDArray[np.uint8], pattern: NDArray[np.uint8], share: float) -> NDArray[np.uint8]:
    """Return ``(1 - share) images + share pattern``, uint8, rounded half up.

    Args:
        images: uint8 (N, C, H, W).
        pattern: uint8 (C, H, W).
        share: The pattern's weight, in [0, 1].

    Source: Chen et al. 2017, arXiv 1712.05526, section 4 (blended injection).
    """
    mixed = (1 - share) * images.astype(np.float32) + share * pattern.astype(np.float32)
    return np.floor(mixed + 0.5).clip(0, 255).astype(np.uint8)


@ATTACKS.register(paper="arXiv:1712.05526")
@dataclass(frozen=True, slots=True, kw_only=True)
class Blended:
    """Blends one random picture into a share of the training set and gives these rows its label.

    Dirty-label: the poisons are random rows of the other classes. At test time every image that is
    blended with the same picture shall get ``adv_label``. The published code takes a cartoon or a
    fixed image of noise; here the picture is drawn, one per seed of the poison.

    Attributes:
        adv_label: Label that the attacker wants to see.
        budget: Share of the training set that is poisoned, in (0, 1].
        share: The picture's weight in training and at test, in (0, 1].
        cell_px: Side of the picture's squares of one colour; 1 is noise.
    """

    adv_label: int
    budget: float = 0.1
    share: float = 0.2
    cell_px: int = 1

    goal: ClassVar[Goal] = "triggered"
    target_field: ClassVar[str | None] = "adv_label"
    example: ClassVar[Mapping[str, Any]] = {"adv_label": 0}

    def __post_init__(self) -> None:
        check_budget(self.budget)
        if not 0 < self.share <= 1:
            raise DataError(f"share is the picture's weight, in (0, 1]; got {self.share}.")
        if self.cell_px < 1:
            raise DataError(f"cell_px must be at least 1; got {self.cell_px}.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check label and number of rows against the data."""
        check_rows(self.adv_label, self.budget, train)

    def bounds(self, train: ImageSet) -> Bounds:
        """Return the number of poisons; black under white moves by ``share`` of 255."""
        eps_255 = int(np.floor(255 * self.share + 0.5))
        return Bounds(rows=poison_count(self.budget, train), eps_255=eps_255, keeps_labels=False)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Draw the picture, blend and relabel random rows, probe all other test images."""
        self.check(train, test)
        seed = subseed(rng)
        pattern = draw_pattern(train.image_shape, self.cell_px, stream(seed, "pattern"))
        rows = draw_rows(self.adv_label, self.budget, train, stream(seed, "rows"))
        images = blend(train.images[rows], pattern, self.share)
        poisoned = relabelled(train, rows, images, self.adv_label)
        probes = triggered_probes(
            test, self.adv_label, [("x1", lambda u8: blend(u8, pattern, self.share))]
        )
        return PoisonedSet(poisoned, train.ids[rows], probes, self.goal)
