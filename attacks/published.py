"""Poisons that others made: imported once, replayed on the same rows."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks._triggered import triggered_probes
from harness.core.data import Goal, ImageSet, PoisonedSet, Probe
from harness.core.errors import DataError
from harness.core.pixels import add_within
from harness.core.protocols import ATTACKS, Bounds
from harness.interop.lint import SLACK_255, lint
from harness.interop.matching import same_rows
from harness.interop.poison_set import (
    UNKNOWN,
    Delta,
    Patch,
    PoisonSet,
    is_poison_set,
    read_poison_set,
)

Stamp = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


@ATTACKS.register()  # type: ignore[arg-type]  # its goal is the set's, and no constant
@dataclass(frozen=True, slots=True, kw_only=True)
class Published:
    """Replays a set of poisons that was imported: its rows, its labels, its target or trigger.

    Each poison replaces the training row that it was made of. A target is looked for in the test
    set; a trigger is put onto it, or onto all test images of other classes. What the attack wants
    and promises stands in the set (see :mod:`harness.interop.poison_set`).

    Attributes:
        folder: A set of poisons, or a folder of numbered ones, as ``import-poisons`` writes them.
        number: Which of the numbered ones, for example one per target; 0 where there is only one.
        magnifications: Factors on an additive trigger at test time; the first gives the headline
            rate.
    """

    folder: Path
    number: int
    magnifications: tuple[int, ...] = (1, 2, 3)

    target_field: ClassVar[str | None] = "number"
    example: ClassVar[Mapping[str, Any]] = {
        "folder": str(Path(__file__).with_name("_published_example")),
        "number": 0,
    }

    def __post_init__(self) -> None:
        if self.number < 0:
            raise DataError(f"number counts from 0; got {self.number}.")
        if not self.magnifications or min(self.magnifications) < 1:
            raise DataError(f"magnifications are positive; got {list(self.magnifications)}.")

    def _set(self) -> PoisonSet:
        if is_poison_set(self.folder) and self.number:
            raise DataError(
                f"{str(self.folder)!r} is one set of poisons, number 0; got {self.number}."
            )
        numbered = self.folder / str(self.number)
        return read_poison_set(numbered if is_poison_set(numbered) else self.folder)

    @property
    def goal(self) -> Goal:
        """How its success is counted: as the set says."""
        return self._set().meta.goal

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Hold the set against the data; what the linter calls an error is one."""
        errors = [f for f in lint(self._set(), train, test) if f.level == "error"]
        if errors:
            more = f" And {len(errors) - 3} more." if len(errors) > 3 else ""
            listed = " ".join(f"{finding.where}: {finding.what}" for finding in errors[:3])
            raise DataError(f"poisons {str(self.folder)!r} do not fit these data. {listed}{more}")

    def bounds(self, train: ImageSet) -> Bounds:
        """Return what the set promises, with the level that a truncating exporter adds."""
        poisons = self._set()
        eps = poisons.meta.eps_255
        largest = None if eps is None else min(255, int(eps) + SLACK_255)
        return Bounds(rows=len(poisons), eps_255=largest, keeps_labels=poisons.meta.clean_label)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Put the poisons into the rows of their bases."""
        self.check(train, test)
        poisons = self._set()
        rows = train.positions(poisons.base_ids)
        images, labels = train.images.copy(), train.labels.copy()
        images[rows], labels[rows] = poisons.images, poisons.labels
        poisoned = ImageSet(images, labels, train.ids, train.num_classes)
        trigger = poisons.trigger.values if isinstance(poisons.trigger, Delta) else None
        probes = probes_of(poisons, test, self.magnifications)
        goal = poisons.meta.goal
        return PoisonedSet(poisoned, poisons.base_ids, probes, goal, {}, trigger)


def probes_of(
    poisons: PoisonSet, test: ImageSet, magnifications: tuple[int, ...]
) -> tuple[Probe, ...]:
    """Return what judges a set: its target images, or triggered test images of other classes."""
    adv_label, trigger = poisons.meta.adv_label, poisons.trigger
    if poisons.meta.goal == "availability" or adv_label is None:
        return ()
    stamps: list[tuple[str, Stamp]]
    if isinstance(trigger, Delta):
        stamps = [
            (f"x{m}", partial(add_within, delta01=m * trigger.values)) for m in magnifications
        ]
    else:
        name = "target" if poisons.meta.goal == "targeted" else "x1"
        stamps = [(name, trigger.paste if isinstance(trigger, Patch) else _as_it_is)]
    if poisons.target is None:
        return triggered_probes(test, adv_label, stamps)
    target = _target_rows(poisons, test)
    wanted = np.full(len(target), adv_label, np.int64)
    return tuple(
        Probe(name, target.with_images(stamp(target.images)), wanted) for name, stamp in stamps
    )


def _as_it_is(images: NDArray[np.uint8]) -> NDArray[np.uint8]:
    return images


def _target_rows(poisons: PoisonSet, test: ImageSet) -> ImageSet:
    """Return the target images with the ids of the test images they are; others count from -1."""
    target = poisons.target
    if target is None:
        raise DataError("this set has no target.")
    rows = same_rows(target.images, test.images)
    # An image that stands twice keeps the test image's id once.
    first = np.zeros(len(rows), np.bool_)
    first[np.unique(rows, return_index=True)[1]] = True
    fresh = -1 - np.arange(len(rows))
    ids = np.where((rows != UNKNOWN) & first, test.ids[rows], fresh) if len(test) else fresh
    return ImageSet(target.images, target.true_labels, ids.astype(np.int64), test.num_classes)
