"""Feature Collision (Poison Frogs): images of a class that a network takes for one test image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from attacks._collision import Collision, craft
from attacks._polytope import squared_distances
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


@ATTACKS.register(paper="arXiv:1804.00792")
@dataclass(frozen=True, slots=True, kw_only=True)
class FeatureCollision:
    """Moves images of a class onto the features of one test image, each alone.

    Clean-label and without a trigger, for victims that take a trained network and train its head
    on a small set; a head that learns the poisons' label takes the test image along. Success is one
    bit: the label that the victim gives it. This is the paper's own algorithm, a gradient step on
    features and a step back to the base image, from a start that shows the target faintly;
    ``bullseye_polytope`` with ``crafting: {center: each}`` has the same aim with Adam.

    Attributes:
        target: Number of the setup: target image, its label and the adversary's (see ``setups``).
        surrogates: Trained networks whose features are matched together.
        eps_255: Linf bound in grey levels; 8 in *Just How Toxic*. None for the paper's form, which
            has a weight on the distance of pixels and no bound.
        poisons: Images that are perturbed; 25 in *Just How Toxic*'s transfer.
        bases: Which rows of the adversary's class: ``random`` ones, the ``first`` ones, or those
            ``nearest`` to the target in the surrogates' features.
        correct_only: Draw targets that every surrogate classifies correctly. Never is a target
            drawn that a surrogate gives the adversary's label already.
        setups: File of published setups to take instead of drawing them; it also gives the rows,
            and then ``poisons``, ``bases`` and ``correct_only`` do not count (see
            :func:`attacks._setups.read_setup`).
        collision: How poisons are crafted.
    """

    target: int
    surrogates: tuple[Predictor, ...]
    eps_255: int | None = 8
    poisons: int = 25
    bases: Literal["random", "first", "nearest"] = "random"
    correct_only: bool = True
    setups: Path | None = None
    collision: Collision = field(default_factory=Collision)

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
        "poisons": 5,
        "correct_only": False,
        "collision": {"iterations": 20},
    }

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise DataError("surrogates must hold at least one network.")
        if self.target < 0:
            raise DataError(f"target is the number of a setup, from 0; got {self.target}.")
        if self.eps_255 is not None and not 1 <= self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, 1..255, or None; got {self.eps_255}.")
        if self.poisons < 1:
            raise DataError(f"poisons must be at least 1; got {self.poisons}.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check the setup against the data, or that every class has enough rows."""
        if self.setups is not None:
            setup = read_setup(self.setups, self.target)
            check_setup(setup, train, test, f"setup {self.target} of {str(self.setups)!r}")
            return
        if not len(test):
            raise DataError("the test set is empty; a target is one of its images.")
        fewest = int(np.bincount(train.labels, minlength=train.num_classes).min())
        if self.poisons > fewest:
            raise DataError(
                f"{self.poisons} poisons of one class are asked for; the smallest class has "
                f"{fewest} rows."
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
        target = test.images[setup.target_row]
        crafted = craft(target, train.images[rows], self.surrogates, self.eps_255, self.collision)
        images = train.images.copy()
        images[rows] = crafted.images
        details = {
            "target_row": float(setup.target_row),
            "feature_distance_before": float(crafted.distance_before.mean()),
            "feature_distance": float(crafted.distance.mean()),
        }
        for index, (label,) in enumerate(predicted_labels(self.surrogates, target[None])):
            details[f"surrogate{index}_label_of_target"] = float(label)
        probes = (target_probe(test, setup),)
        return PoisonedSet(train.with_images(images), train.ids[rows], probes, self.goal, details)

    def _setup(
        self, train: ImageSet, test: ImageSet, rng: np.random.Generator
    ) -> tuple[Setup, NDArray[np.int64]]:
        """Return the setup and the rows that become poisons."""
        if self.setups is not None:
            published = read_setup(self.setups, self.target)
            return published, np.asarray(published.base_rows, np.int64)
        seed = subseed(rng)  # the first draw: attacks on one seed attack the same images
        predicted = self._predicted(test)
        known = None
        if self.correct_only and predicted is not None:
            known = np.all(predicted == test.labels, axis=0)
        setup = draw_setup(test, self.target, seed, known=known, predicted=predicted)
        if self.bases != "nearest":
            return setup, choose_bases(train, setup.adv_label, self.poisons, self.bases, rng)
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
