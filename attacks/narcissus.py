"""Narcissus: a clean-label backdoor from one class's images and public data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks._trigger_search import TriggerSearch, find_trigger
from attacks._triggered import Rule, check_label, choose_rows, triggered_probes
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.pixels import add_within
from harness.core.protocols import ATTACKS, Bounds
from harness.training import Predictor

_TINY_POOD = {"name": "shapes", "kind": "pood", "train": 120, "test": 12}


def read_trigger(path: Path, eps_255: int) -> NDArray[np.float32]:
    """Read a published trigger file.

    Args:
        path: ``.npy``, float (1, C, H, W) or (C, H, W) in units of [-1, 1], as in the repositories
            of Narcissus (``resnet18_trigger.npy``) and PureGen (``best_noise_lab{c}.npy``).
        eps_255: Bound that it must keep, in grey levels.

    Returns:
        float32 (C, H, W) in units of [0, 1].

    Raises:
        DataError: If the file is missing, no such array, not finite, or breaks the bound.
    """
    try:
        raw = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"trigger {str(path)!r} cannot be read as .npy: {error}") from error
    if not isinstance(raw, np.ndarray) or raw.dtype.kind != "f":
        raise DataError(f"trigger {str(path)!r} must be one array of floats.")
    delta = raw[0] if raw.ndim == 4 and len(raw) == 1 else raw
    if delta.ndim != 3 or not np.all(np.isfinite(delta)):
        raise DataError(f"trigger {str(path)!r} must be finite and (1, C, H, W); got {raw.shape}.")
    largest = float(np.abs(delta).max()) * 127.5
    if largest > eps_255 + 0.01:
        hint = " It may be in units of [0, 1] or 0..255." if largest > 1.5 * eps_255 else ""
        raise DataError(
            f"trigger {str(path)!r} reaches {largest:.2f} grey levels when read in units of "
            f"[-1, 1]; eps_255 is {eps_255}.{hint}"
        )
    return (delta / 2).astype(np.float32)


@ATTACKS.register(paper="arXiv:2204.05255")
@dataclass(frozen=True, slots=True, kw_only=True)
class Narcissus:
    """Adds one small pattern to images of a class, labels kept; the pattern then means the class.

    The attacker knows images of one class and public ones, not the victim's network. At test time
    the pattern, magnified if need be, makes any image be taken for that class. Success is the share
    of test images of the other classes that get ``adv_label``.

    Attributes:
        adv_label: The class; the label that the attacker wants to see.
        surrogate: Classifier of public images; needed unless ``trigger`` is given.
        pood: Public out-of-distribution images that the surrogate was trained on; likewise.
        trigger: Published trigger file to use instead of searching one (see
            :func:`read_trigger`).
        eps_255: Linf bound in grey levels; 8 in PureGen, 16 in the paper.
        class_share: Share of the class that is poisoned, in (0, 1].
        select: Which rows of the class: the ``last`` ones (PureGen on CIFAR-10), the ``first``
            ones, or ``random`` ones (paper).
        magnifications: Factors on the trigger at test time; the first gives the headline rate.
        search: How the trigger is sought.
    """

    adv_label: int
    surrogate: Predictor | None = None
    pood: ImageSet | None = None
    trigger: Path | None = None
    eps_255: int = 8
    class_share: float = 0.1
    select: Rule = "last"
    magnifications: tuple[int, ...] = (1, 2, 3)
    search: TriggerSearch = field(default_factory=TriggerSearch)

    goal: ClassVar[Goal] = "triggered"
    target_field: ClassVar[str | None] = "adv_label"
    example: ClassVar[Mapping[str, Any]] = {
        "adv_label": 1,
        "class_share": 0.5,
        "surrogate": {
            "name": "hlb_xs",
            "widths": [8, 8, 8],
            "recipe": {"epochs": 1},
            "dataset": _TINY_POOD,
        },
        "pood": _TINY_POOD,
        "search": {"class_epochs": 1, "warmup_epochs": 1, "steps": 30},
    }

    def __post_init__(self) -> None:
        if not 1 <= self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, 1..255; got {self.eps_255}.")
        if not 0 < self.class_share <= 1:
            raise DataError(f"class_share is a share in (0, 1]; got {self.class_share}.")
        if not self.magnifications or min(self.magnifications) < 1:
            raise DataError(f"magnifications are positive; got {list(self.magnifications)}.")
        if self.trigger is None and (self.surrogate is None or self.pood is None):
            raise DataError("give 'surrogate' and 'pood' to search a trigger, or a 'trigger' file.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check label, shapes and the trigger file against the data."""
        check_label(self.adv_label, train)
        if self.trigger is not None:
            shape: tuple[int, ...] = read_trigger(self.trigger, self.eps_255).shape
            what = f"trigger {str(self.trigger)!r}"
        elif isinstance(self.pood, ImageSet):
            shape, what = self.pood.image_shape, "pood images"
        if shape != train.image_shape:
            raise DataError(f"{what} have shape {shape}, training images {train.image_shape}.")

    def _count(self, train: ImageSet) -> int:
        return max(1, round(self.class_share * int(np.sum(train.labels == self.adv_label))))

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that the poisons are rows of one class, labels kept, within ``eps_255``."""
        return Bounds(rows=self._count(train), eps_255=self.eps_255, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Search or read the trigger and add it to the chosen rows of the class."""
        self.check(train, test)
        of_class = np.flatnonzero(train.labels == self.adv_label)
        rows = choose_rows(of_class, self._count(train), self.select, rng)
        delta, details = self._trigger(train.take(of_class), rng)
        images = train.images.copy()
        images[rows] = add_within(images[rows], delta, self.eps_255)
        probes = triggered_probes(
            test,
            self.adv_label,
            [(f"x{m}", partial(add_within, delta01=m * delta)) for m in self.magnifications],
        )
        poisoned = train.with_images(images)
        return PoisonedSet(poisoned, train.ids[rows], probes, self.goal, details, delta)

    def _trigger(
        self, class_images: ImageSet, rng: np.random.Generator
    ) -> tuple[NDArray[np.float32], dict[str, float]]:
        if self.trigger is not None:
            return read_trigger(self.trigger, self.eps_255), {}
        if self.pood is None or self.surrogate is None:
            raise DataError("a trigger search needs 'surrogate' and 'pood'.")
        found = find_trigger(
            class_images, self.pood, self.surrogate, self.adv_label,
            self.eps_255 / 255, self.search, rng,
        )  # fmt: skip
        details = {"trigger_loss_before": found.loss_before, "trigger_loss": found.loss_after}
        return found.delta, details
