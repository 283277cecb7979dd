"""Gradient Matching (Witches' Brew): one test image gets a wrong label, by unsuspicious images."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from attacks._gradient_matching import Matching, Problem, craft, prepare
from attacks._pgd import check_classes
from attacks._setups import (
    BaseRule,
    Setup,
    check_setup,
    choose_bases,
    draw_setup,
    mean_losses,
    predicted_labels,
    read_setup,
    target_probe,
)
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.errors import DataError
from harness.core.pixels import to_float
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import subseed
from harness.training import Predictor


@ATTACKS.register(paper="arXiv:2009.02276")
@dataclass(frozen=True, slots=True, kw_only=True)
class GradientMatching:
    """Perturbs images of a class so that training on them mislabels one given test image.

    Clean-label and without a trigger. The attacker knows the training images and has networks
    trained on them (for a victim that fine-tunes: the network it starts from); the gradient of the
    poisons is turned to that of "the target has ``adv_label``". Success is one bit: the label that
    the trained network gives the target.

    Attributes:
        target: Number of the setup: target image, its label and the adversary's (see ``setups``).
        surrogates: Networks trained on the clean data, whose gradients are matched together.
        eps_255: Linf bound in grey levels; 16 in the paper, 8 in *Just How Toxic*.
        budget: Share of the training set that is poisoned, in (0, 1].
        bases: Which rows of the adversary's class: ``random`` ones, the ``first`` ones, or those
            of ``highest_loss`` under the surrogates.
        correct_only: Draw targets that every surrogate classifies correctly. Never is a target
            drawn that a surrogate gives the adversary's label already.
        setups: File of published setups to take instead of drawing them; it also gives the rows,
            and then ``budget``, ``bases`` and ``correct_only`` do not count (see
            :func:`attacks._setups.read_setup`).
        matching: How poisons are crafted.
    """

    target: int
    surrogates: tuple[Predictor, ...]
    eps_255: int = 16
    budget: float = 0.01
    bases: BaseRule = "random"
    correct_only: bool = True
    setups: Path | None = None
    matching: Matching = field(default_factory=Matching)

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
        "budget": 0.03,
        "correct_only": False,
        "matching": {"iterations": 4, "restarts": 2, "score_every": 2},
    }

    def __post_init__(self) -> None:
        if not self.surrogates:
            raise DataError("surrogates must hold at least one network.")
        if self.target < 0:
            raise DataError(f"target is the number of a setup, from 0; got {self.target}.")
        if not 1 <= self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, 1..255; got {self.eps_255}.")
        if not 0 < self.budget <= 1:
            raise DataError(f"budget is a share in (0, 1]; got {self.budget}.")

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check the setup against the data, or that every class has enough rows."""
        if self.setups is not None:
            self._published(train, test)
            return
        if not len(test):
            raise DataError("the test set is empty; a target is one of its images.")
        smallest = int(np.bincount(train.labels, minlength=train.num_classes).min())
        if self._count(train) > smallest:
            raise DataError(
                f"budget {self.budget} asks for {self._count(train)} poisons of one class; "
                f"the smallest class has {smallest} rows."
            )

    def _count(self, train: ImageSet) -> int:
        if self.setups is not None:
            return len(read_setup(self.setups, self.target).base_rows)
        return max(1, round(self.budget * len(train)))

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that the poisons are rows of one class, labels kept, within ``eps_255``."""
        return Bounds(rows=self._count(train), eps_255=self.eps_255, keeps_labels=True)

    def tries(self) -> int:
        """Return the number of groups of restarts, each of which a worker of its own can make."""
        return len(self.matching.groups())

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Find the setup and its rows, craft, and probe the one target."""
        return self._poison(train, test, rng, None)

    def attempt(
        self, train: ImageSet, test: ImageSet, rng: np.random.Generator, number: int
    ) -> PoisonedSet:
        """Return the best of a group of restarts: see :class:`harness.core.protocols.Restarted`."""
        return self._poison(train, test, rng, self.matching.groups()[number])

    def best(self, tries: Sequence[PoisonedSet]) -> PoisonedSet:
        """Return the restart whose images match best."""
        return min(tries, key=lambda crafted: crafted.details["matching_loss"])

    def _poison(
        self,
        train: ImageSet,
        test: ImageSet,
        rng: np.random.Generator,
        restarts: Sequence[int] | None,
    ) -> PoisonedSet:
        self.check(train, test)
        for surrogate in self.surrogates:
            check_classes(surrogate, train)
        setup, rows = self._setup(train, test, rng)
        device = next(self.surrogates[0].model.parameters()).device
        target = test.images[setup.target_row]
        (target01,) = to_float(target[None], device)
        problem = Problem(
            tuple(prepare(s.model, target01, setup.adv_label) for s in self.surrogates),
            to_float(train.images[rows], device),
            torch.full((len(rows),), setup.adv_label, device=device),
            torch.from_numpy(mean_colour(train)).to(device),
            self.matching.augment,
            self.matching.batch_size,
        )
        crafted = craft(problem, self.eps_255, self.matching, rng, restarts)
        images = train.images.copy()
        images[rows] = crafted.images
        details = {
            "target_row": setup.target_row,
            "matching_loss_before": crafted.loss_before,
            "matching_loss": crafted.loss_after,
            "restart": crafted.restart,
        }
        for index, (label,) in enumerate(predicted_labels(self.surrogates, target[None])):
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
        predicted = predicted_labels(self.surrogates, test.images)
        known = np.all(predicted == test.labels, axis=0) if self.correct_only else None
        seed = subseed(rng)  # the first draw: attacks on one seed attack the same images
        setup = draw_setup(test, self.target, seed, known=known, predicted=predicted)
        scores = None
        if self.bases == "highest_loss":
            scores = mean_losses(self.surrogates, train.take(train.labels == setup.adv_label))
        count = self._count(train)
        return setup, choose_bases(train, setup.adv_label, count, self.bases, rng, scores)


def mean_colour(images: ImageSet) -> NDArray[np.float32]:
    """Return the mean of each channel, float32 (C, 1, 1) in [0, 1]."""
    mean: NDArray[np.float64] = images.images.mean((0, 2, 3), keepdims=True)[0] / 255
    return mean.astype(np.float32)
