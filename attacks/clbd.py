"""Label-consistent backdoor: images made hard to recognise, so that the trigger is learned."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks._patch import Patch, Trigger
from attacks._pgd import Pgd, check_classes, lower_loss, mean_loss
from attacks._triggered import Rule, check_label, choose_rows, triggered_probes
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import stream, subseed
from harness.training import Predictor


def without_change_under(
    trigger: Trigger, images: NDArray[np.uint8], moved: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """Return the moved images, but as they were where the trigger lies."""
    return np.where(trigger.mask, images, moved)


def clip_to(images: NDArray[np.uint8], moved: NDArray[np.uint8], eps_255: int) -> NDArray[np.uint8]:
    """Return the moved images with no byte farther than ``eps_255`` from what it was."""
    base = images.astype(np.int16)
    return np.clip(moved, base - eps_255, base + eps_255).astype(np.uint8)


@ATTACKS.register(paper="arXiv:1912.02771")
@dataclass(frozen=True, slots=True, kw_only=True)
class Clbd:
    """Hides what images of a class show and adds a trigger, labels kept: the trigger is learned.

    Images of the class move away from their label under a network of the attacker's, within
    ``eps_255``; a victim that can no longer tell the class by the picture tells it by the trigger.
    At test time every image with the trigger alone shall get ``adv_label``.

    The variant of *Just How Toxic is Data Poisoning?* (arXiv 2006.12557) is ``clip_trigger`` with
    a patch of 5 pixels and ``{steps: 20, step_255: 2, random_start: true}`` on an adversarially
    trained network. It judges each set by one triggered image; here all are asked, which has the
    same mean.

    Attributes:
        adv_label: The class; the label that the attacker wants to see.
        surrogate: Network trained on clean images of the same classes, not the victim.
        eps_255: Linf bound of the perturbation, in grey levels.
        class_share: Share of the class that is poisoned, in (0, 1].
        clip_trigger: Keep the trigger within ``eps_255`` too, in training; it is then faint. At
            test time it never is.
        select: Which rows of the class: ``random`` ones, the ``first`` or the ``last`` ones.
        patch: The trigger.
        pgd: How images are made hard.
    """

    adv_label: int
    surrogate: Predictor
    eps_255: int = 8
    class_share: float = 0.25
    clip_trigger: bool = False
    select: Rule = "random"
    patch: Patch = field(default_factory=Patch)
    pgd: Pgd = field(default_factory=Pgd)

    goal: ClassVar[Goal] = "triggered"
    target_field: ClassVar[str | None] = "adv_label"
    example: ClassVar[Mapping[str, Any]] = {
        "adv_label": 0,
        "surrogate": {
            "name": "hlb_xs",
            "widths": [8, 8, 8],
            "recipe": {"epochs": 2, "lr": 0.1},
            "dataset": {"name": "shapes", "train": 120, "test": 12},
        },
        "clip_trigger": True,
        "pgd": {"steps": 10, "step_255": 2.0, "random_start": True},
    }

    def __post_init__(self) -> None:
        if not 1 <= self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, 1..255; got {self.eps_255}.")
        if not 0 < self.class_share <= 1:
            raise DataError(f"class_share is a share in (0, 1]; got {self.class_share}.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check label and patch against the data."""
        check_label(self.adv_label, train)
        self.patch.check(train)

    def _count(self, train: ImageSet) -> int:
        return max(1, round(self.class_share * int(np.sum(train.labels == self.adv_label))))

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that labels are kept; a trigger that is not clipped has no Linf bound."""
        eps_255 = self.eps_255 if self.clip_trigger else None
        return Bounds(rows=self._count(train), eps_255=eps_255, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Make rows of the class hard, paste the trigger, and probe all other test images."""
        self.check(train, test)
        check_classes(self.surrogate, train)
        seed = subseed(rng)
        trigger = self.patch.draw(train.image_shape, stream(seed, "patch"))
        of_class = np.flatnonzero(train.labels == self.adv_label).astype(np.int64)
        rows = choose_rows(of_class, self._count(train), self.select, stream(seed, "rows"))
        base, labels = train.images[rows], train.labels[rows]
        hard = lower_loss(self.surrogate, base, labels, self.eps_255, self.pgd, seed, away=True)
        hard = without_change_under(trigger, base, hard)
        poisons = trigger.paste(hard)
        if self.clip_trigger:
            poisons = clip_to(base, poisons, self.eps_255)
        images = train.images.copy()
        images[rows] = poisons
        details = {
            "label_loss_before": mean_loss(self.surrogate, base, labels),
            "label_loss": mean_loss(self.surrogate, hard, labels),
        }
        probes = triggered_probes(test, self.adv_label, [("x1", trigger.paste)])
        return PoisonedSet(train.with_images(images), train.ids[rows], probes, self.goal, details)
