"""Narcissus on every class at once: a training set of which any part may bear a trigger."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from attacks._trigger_search import TriggerSearch
from attacks._triggered import Rule
from attacks.narcissus import Crafted, Narcissus
from harness.core.data import Goal, ImageSet, PoisonedSet, Probe
from harness.core.errors import DataError
from harness.core.pixels import add_within
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import stream, subseed
from harness.training import Predictor


def spread_labels(
    test: ImageSet, per_class: int, rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Give each test image a class whose trigger it shall bear, never its own.

    Args:
        test: Test set of at least two classes.
        per_class: Images per trigger, at most.
        rng: Source of who bears which.

    Returns:
        Positions of the images that bear one, ascending, and the classes, both int64. Each trigger
        gets nearly equally many images, nearly equally many of each other class.
    """
    order = rng.permutation(len(test))
    labels = test.labels[order]
    turn = _rank_within(labels)  # the how-manieth image of its own class
    adv = (labels + 1 + turn % (test.num_classes - 1)) % test.num_classes
    by_turn = np.argsort(turn, kind="stable")
    chosen = by_turn[_rank_within(adv[by_turn]) < per_class]
    rows = order[chosen]
    ascending = np.argsort(rows)
    return rows[ascending].astype(np.int64), adv[chosen][ascending].astype(np.int64)


def _rank_within(groups: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many entries of the same value stand before each entry."""
    order = np.argsort(groups, kind="stable")
    ordered = groups[order]
    rank = np.empty(len(groups), np.int64)
    rank[order] = np.arange(len(groups)) - np.searchsorted(ordered, ordered)
    return rank


@ATTACKS.register(paper="arXiv:2204.05255, arXiv:2405.18627")
@dataclass(frozen=True, slots=True, kw_only=True)
class NarcissusAll:
    """Adds a trigger of its own to images of every class, labels kept.

    What PureGen trains generators on to see whether a poisoned source of images harms the defense.
    Each class is attacked as by ``narcissus``, from a random stream of its own. A test image bears
    the trigger of one other class; success is the share that gets that class.

    Attributes:
        surrogate: Classifier of public images; needed unless ``triggers`` is given.
        pood: Public out-of-distribution images that the surrogate was trained on; likewise.
        triggers: Folder of published triggers ``best_noise_lab{class}.npy`` to use instead of
            searching them.
        eps_255: Linf bound in grey levels.
        class_share: Share of each class that is poisoned, in (0, 1]; all of it in PureGen.
        select: Which rows of each class: the ``last`` ones, the ``first`` ones, or ``random`` ones.
        magnifications: Factors on the triggers at test time; the first gives the headline rate.
        probe_rows: Test images per trigger, at most.
        search: How each trigger is sought.
    """

    surrogate: Predictor | None = None
    pood: ImageSet | None = None
    triggers: Path | None = None
    eps_255: int = 8
    class_share: float = 1.0
    select: Rule = "last"
    magnifications: tuple[int, ...] = (1, 2, 3)
    probe_rows: int = 500
    search: TriggerSearch = field(default_factory=TriggerSearch)

    goal: ClassVar[Goal] = "triggered"
    target_field: ClassVar[str | None] = None
    example: ClassVar[Mapping[str, Any]] = {
        **{k: v for k, v in Narcissus.example.items() if k != "adv_label"},
        "probe_rows": 4,
        "magnifications": [1],
        "search": {"class_epochs": 0, "warmup_epochs": 0, "steps": 10, "lr": 0.05, "batch_size": 4},
    }

    def __post_init__(self) -> None:
        if self.probe_rows < 1:
            raise DataError(f"probe_rows must be at least 1; got {self.probe_rows}.")
        if self.triggers is None and (self.surrogate is None or self.pood is None):
            raise DataError(
                "give 'surrogate' and 'pood' to search triggers, or a folder of 'triggers'."
            )
        self._of(0)  # the rest is checked where one class is attacked

    def _of(self, adv_label: int) -> Narcissus:
        trigger = self.triggers and self.triggers / f"best_noise_lab{adv_label}.npy"
        return Narcissus(
            adv_label=adv_label, surrogate=self.surrogate, pood=self.pood, trigger=trigger,
            eps_255=self.eps_255, class_share=self.class_share, select=self.select,
            magnifications=self.magnifications, search=self.search,
        )  # fmt: skip

    def _each(self, train: ImageSet) -> Iterator[Narcissus]:
        return map(self._of, range(train.num_classes))

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check every class against the data."""
        if train.num_classes < 2 or not len(test):
            raise DataError(
                "a trigger needs test images of another class; the data have "
                f"{train.num_classes} classes and {len(test)} test images."
            )
        for attack in self._each(train):
            attack.check(train, test)

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that labels are kept, within ``eps_255``, the same share of each class."""
        rows = sum(attack.bounds(train).rows for attack in self._each(train))
        return Bounds(rows=rows, eps_255=self.eps_255, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Search or read each class's trigger and add it to the chosen rows of the class."""
        self.check(train, test)
        seed = subseed(rng)
        images = train.images.copy()
        crafted: list[Crafted] = []
        for attack in self._each(train):
            found = attack.craft(train, stream(seed, "class", attack.adv_label))
            images[found.rows] = add_within(images[found.rows], found.delta, self.eps_255)
            crafted.append(found)
        rows = np.sort(np.concatenate([found.rows for found in crafted]))
        deltas = np.stack([found.delta for found in crafted])
        bearing, adv_labels = spread_labels(test, self.probe_rows, stream(seed, "probes"))
        bearers, borne = test.take(bearing), deltas[adv_labels]
        probes = tuple(
            Probe(f"x{m}", bearers.with_images(add_within(bearers.images, m * borne)), adv_labels)
            for m in self.magnifications
        )
        poisoned = train.with_images(images)
        return PoisonedSet(poisoned, train.ids[rows], probes, self.goal, _summed_up(crafted))


def _summed_up(crafted: list[Crafted]) -> dict[str, float]:
    """Return the mean of each figure over the classes, and the worst last loss."""
    names = crafted[0].details
    found = {name: float(np.mean([c.details[name] for c in crafted])) for name in names}
    if "trigger_loss" in names:
        found["trigger_loss_worst"] = max(c.details["trigger_loss"] for c in crafted)
    return found
