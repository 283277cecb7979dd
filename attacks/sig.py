"""SIG: a clean-label backdoor whose trigger is a sine wave across the image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks._triggered import Rule, check_label, choose_rows, triggered_probes
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.pixels import add_within
from harness.core.protocols import ATTACKS, Bounds


def sine_wave(
    image_shape: tuple[int, int, int], amplitude_255: int, periods: int
) -> NDArray[np.float32]:
    """Return the wave ``amplitude sin(2 pi j periods / W)`` of column j, the same in every row.

    Args:
        image_shape: (C, H, W).
        amplitude_255: In grey levels.
        periods: Over the width.

    Returns:
        float32 (C, H, W) in units of [0, 1].

    Source: Barni et al. 2019, arXiv 1902.11237, section 3.
    """
    columns = np.arange(image_shape[2])
    wave = amplitude_255 / 255 * np.sin(2 * np.pi * columns * periods / image_shape[2])
    return np.broadcast_to(wave, image_shape).astype(np.float32)


@ATTACKS.register(paper="arXiv:1902.11237")
@dataclass(frozen=True, slots=True, kw_only=True)
class Sig:
    """Adds a faint sine wave to images of one class, labels kept; the wave then means the class.

    At test time every image with the wave shall get ``adv_label``.

    Attributes:
        adv_label: The class; the label that the attacker wants to see.
        amplitude_255: Of the wave, in grey levels; 40 in BackdoorBench.
        periods: Of the wave, over the image's width.
        class_share: Share of the class that is poisoned, in (0, 1]. The common "poison rate 0.1" of
            CIFAR-10 is the whole class.
        select: Which rows of the class: ``random`` ones, the ``first`` or the ``last`` ones.
        magnifications: Factors on the wave at test time; the first gives the headline rate.
    """

    adv_label: int
    amplitude_255: int = 40
    periods: int = 6
    class_share: float = 1.0
    select: Rule = "random"
    magnifications: tuple[int, ...] = (1,)

    goal: ClassVar[Goal] = "triggered"
    target_field: ClassVar[str | None] = "adv_label"
    example: ClassVar[Mapping[str, Any]] = {"adv_label": 0}

    def __post_init__(self) -> None:
        if not 1 <= self.amplitude_255 <= 255:
            raise DataError(f"amplitude_255 is in grey levels, 1..255; got {self.amplitude_255}.")
        if self.periods < 1:
            raise DataError(f"periods must be at least 1; got {self.periods}.")
        if not 0 < self.class_share <= 1:
            raise DataError(f"class_share is a share in (0, 1]; got {self.class_share}.")
        if not self.magnifications or min(self.magnifications) < 1:
            raise DataError(f"magnifications are positive; got {list(self.magnifications)}.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check the label, and that the columns can show the wave."""
        check_label(self.adv_label, train)
        width = train.image_shape[2]
        if 2 * self.periods >= width:
            raise DataError(
                f"{self.periods} periods need more than {2 * self.periods} columns; "
                f"images have {width}."
            )

    def _count(self, train: ImageSet) -> int:
        return max(1, round(self.class_share * int(np.sum(train.labels == self.adv_label))))

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that the poisons are rows of one class, labels kept, within the amplitude."""
        return Bounds(rows=self._count(train), eps_255=self.amplitude_255, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Add the wave to rows of the class; probe all other test images."""
        self.check(train, test)
        of_class = np.flatnonzero(train.labels == self.adv_label).astype(np.int64)
        rows = choose_rows(of_class, self._count(train), self.select, rng)
        wave = sine_wave(train.image_shape, self.amplitude_255, self.periods)
        images = train.images.copy()
        images[rows] = add_within(images[rows], wave, self.amplitude_255)
        probes = triggered_probes(
            test,
            self.adv_label,
            [(f"x{m}", partial(add_within, delta01=m * wave)) for m in self.magnifications],
        )
        poisoned = train.with_images(images)
        return PoisonedSet(poisoned, train.ids[rows], probes, self.goal, {}, wave)
