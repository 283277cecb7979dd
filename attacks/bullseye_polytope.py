"""Bullseye Polytope: poisons around a test image in feature space, for victims that transfer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attacks._polytope import Crafting, craft, squared_distances
from attacks._setups import (
    Setup,
    check_setup,
    choose_bases,
    draw_setup,
    predicted_labels,
    read_setup,
    target_probe,
)
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import subseed
from harness.training import Predictor


@ATTACKS.register(paper="arXiv:2005.00191")
@dataclass(frozen=True, slots=True, kw_only=True)
class BullseyePolytope:
    """Perturbs a few images of a class until their features enclose those of one test image.

    Clean-label and without a trigger, for victims that take a trained network and adapt it, or its
    head alone, to a small set. The attacker has networks like the victim's; a head that learns the
    poisons' label takes the test image along. Success is one bit: the label that the victim gives
    it. ``crafting.center`` also offers Convex Polytope and the objective of Feature Collision.

    Attributes:
        target: Number of the setup: target image, its label and the adversary's (see ``setups``).
        surrogates: Trained networks whose features are matched together.
        eps_255: Linf bound in grey levels; the paper's 0.1 is 25.
        poisons: Images that are perturbed; 5 in the paper, 50 in PureGen, 25 in *Just How Toxic*.
        bases: Which rows of the adversary's class: the ``first`` ones, ``random`` ones, or those
            ``nearest`` to the target in the surrogates' features.
        true_label: Class of the target, drawn unless given; 6 (frog) in the paper.
        adv_label: Class of the poisons, drawn unless given; 8 (ship) in the paper.
        correct_only: Draw targets that every surrogate classifies correctly. Never is a target
            drawn that a surrogate gives the adversary's label already.
        setups: File of published setups to take instead of drawing them; it also gives the rows,
            and then ``poisons``, ``bases``, the labels and ``correct_only`` do not count (see
            :func:`attacks._setups.read_setup`).
        crafting: How poisons are crafted.
    """

    target: int
    surrogates: tuple[Predictor, ...]
    eps_255: int = 25
    poisons: int = 5
    bases: Literal["first", "random", "nearest"] = "first"
    true_label: int | None = None
    adv_label: int | None = None
    correct_only: bool = True
    setups: Path | None = None
    crafting: Crafting = field(default_factory=Crafting)

    goal: ClassVar[Goal] = "targeted"
    target_field: ClassVar[str | None] = "target"
    example: ClassVar[Mapping[str, Any]] = {
        "target": 0,
        "surrogates": [
            {
                "name": "hlb_xs",
                "widths": [8, 8, 8],
                "recipe": {"epochs": 2, "lr": 0.1},
                "dataset": {"name": "shapes", "train": 120, "test": 12},
            }
        ],
        "correct_only": False,
        "crafting": {"mode": "end_to_end", "iterations": 10, "net_repeat": 2, "dropout": 0.2},
    }

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise DataError("surrogates must hold at least one network.")
        if self.target < 0:
            raise DataError(f"target is the number of a setup, from 0; got {self.target}.")
        if not 1 <= self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, 1..255; got {self.eps_255}.")
        if self.poisons < 1:
            raise DataError(f"poisons must be at least 1; got {self.poisons}.")
        if self.true_label is not None and self.true_label == self.adv_label:
            raise DataError(f"true_label and adv_label must differ; both are {self.adv_label}.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check the setup against the data, or that every class in question has enough rows."""
        if self.setups is not None:
            self._published(train, test)
            return
        if not len(test):
            raise DataError("the test set is empty; a target is one of its images.")
        for name in ("true_label", "adv_label"):
            label = getattr(self, name)
            if label is not None and not 0 <= label < train.num_classes:
                raise DataError(
                    f"{name} is {label}; the data have the classes 0..{train.num_classes - 1}."
                )
        rows = np.bincount(train.labels, minlength=train.num_classes)
        fewest = int(rows.min() if self.adv_label is None else rows[self.adv_label])
        if self.poisons > fewest:
            which = "the smallest class" if self.adv_label is None else f"class {self.adv_label}"
            raise DataError(
                f"{self.poisons} poisons of one class are asked for; {which} has {fewest} rows."
            )

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that the poisons are rows of one class, labels kept, within ``eps_255``."""
        rows = self.poisons
        if self.setups is not None:
            rows = len(read_setup(self.setups, self.target).base_rows)
        return Bounds(rows=rows, eps_255=self.eps_255, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Find the setup and its rows, craft, and probe the one target."""
        self.check(train, test)
        setup, rows = self._setup(train, test, rng)
        target = test.images[setup.target_row][None]
        crafted = craft(
            target, train.images[rows][None], self.surrogates, self.eps_255, self.crafting,
            [subseed(rng)],
        )  # fmt: skip
        images = train.images.copy()
        images[rows] = crafted.images[0]
        details = {
            "target_row": setup.target_row,
            "crafting_loss_before": float(crafted.loss_before[0]),
            "crafting_loss": float(crafted.loss_after[0]),
            "feature_distance": float(crafted.distance[0]),
        }
        for index, (label,) in enumerate(predicted_labels(self.surrogates, target)):
            details[f"surrogate{index}_label_of_target"] = int(label)
        probes = (target_probe(test, setup),)
        return PoisonedSet(train.with_images(images), train.ids[rows], probes, self.goal, details)

    def _published(self, train: ImageSet, test: ImageSet) -> Setup:
        if self.setups is None:
            raise DataError("there is no file of setups.")
        setup = read_setup(self.setups, self.target)
        check_setup(setup, train, test, f"setup {self.target} of {str(self.setups)!r}")
        return setup

    def _setup(
        self, train: ImageSet, test: ImageSet, rng: np.random.Generator
    ) -> tuple[Setup, NDArray[np.int64]]:
        """Return the setup and the rows that become poisons."""
        if self.setups is not None:
            published = self._published(train, test)
            return published, np.asarray(published.base_rows, np.int64)
        seed = subseed(rng)  # the first draw: attacks on one seed attack the same images
        predicted = self._predicted(test)
        known = None
        if self.correct_only and predicted is not None:
            known = np.all(predicted == test.labels, axis=0)
        setup = draw_setup(
            test, self.target, seed, known=known, predicted=predicted,
            true_label=self.true_label, adv_label=self.adv_label,
        )  # fmt: skip
        if self.bases != "nearest":
            rows = choose_bases(train, setup.adv_label, self.poisons, self.bases, rng)
            return setup, rows
        of_class = train.images[train.labels == setup.adv_label]
        far = squared_distances(test.images[setup.target_row], of_class, self.surrogates)
        # The nearest rows are those of the highest score, when a score is minus the distance.
        rows = choose_bases(train, setup.adv_label, self.poisons, "highest_loss", rng, -far)
        return setup, rows

    def _predicted(self, test: ImageSet) -> NDArray[np.int64] | None:
        """Return the labels that the surrogates give, or None where they know other classes."""
        classes = {s.logits(test.images[:1]).shape[1] for s in self.surrogates}
        if classes == {test.num_classes}:
            return predicted_labels(self.surrogates, test.images)
        if self.correct_only:
            raise DataError(
                f"correct_only needs surrogates of the data's {test.num_classes} classes; these "
                f"have {', '.join(map(str, sorted(classes)))}. Give correct_only: false."
            )
        return None
