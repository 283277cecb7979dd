"""NTGA: perturbs every training image so that a network trained on them generalises badly."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from attacks._ntga_search import Labelled, Objective, perturb
from attacks._ntk import Surrogate, tangent_kernel
from harness.core.data import Goal, ImageSet, PoisonedSet
from harness.core.device import pick_device
from harness.core.errors import DataError
from harness.core.pixels import add_within, to_float
from harness.core.protocols import ATTACKS, Bounds
from harness.core.seeds import stream, subseed

Form = Literal["one_step", "multi_step"]
Rows = NDArray[np.int64]

BEST_TIME: Mapping[Surrogate, float] = {"cnn": 8.0, "fnn": 4096.0}  # published, for CIFAR-10
STEPS: Mapping[Form, int] = {"one_step": 1, "multi_step": 10}
OVERSHOOT = 1.1  # all steps together, as a multiple of the bound; published


@ATTACKS.register(paper="ICML 2021, github.com/lionelmessi6410/ntga")
@dataclass(frozen=True, slots=True, kw_only=True)
class Ntga:
    """Perturbs all training images, labels kept, so that what is trained on them fails.

    An availability attack: success is lost accuracy on clean test images, at the last epoch and at
    the best one. The attacker knows the training set and no network: its surrogate is an infinitely
    wide one, whose predictions after a training time have a closed form. The rows are shuffled and
    cut into blocks, the last of which may be smaller; each is perturbed alone, to raise the
    cross-entropy on clean images of other rows.

    The published generator leaves 10,000 of the 50,000 CIFAR-10 rows clean and judges all blocks by
    them. Here every row is perturbed, and all blocks are judged by the same clean images, those of
    a random ``validation_rows`` rows; a block that holds some of these takes others in their place.
    The share matters: blocks that are judged by different rows move a class in different
    directions, and little is left of the attack.

    The published generator sets out to make ten projected steps, but each starts from the clean
    images with the full bound: what it computes is one step along the sign of the gradient. That
    is ``one_step``; ``multi_step`` is what was meant.

    Attributes:
        surrogate: Infinite network: ``cnn`` (two 5x5 convolutions with ReLU, three dense layers)
            or ``fnn`` (five dense layers with erf).
        form: ``one_step`` (published) or ``multi_step``.
        steps: Steps of ``multi_step``; 10 unless given. ``one_step`` has one.
        eps_255: Linf bound in grey levels.
        time: How long the surrogate is trained; unless given, 8 for ``cnn`` and 4096 for ``fnn``,
            the published best on CIFAR-10. Small times attack what is learned first.
        block_size: Rows perturbed together.
        validation_rows: Rows whose clean images judge a block. Time and strength grow with them:
            of 5,085 CIFAR-10 rows, 500, 1000 and 2000 left a small net 69, 57 and 45 % accuracy of
            its clean 76.
    """

    surrogate: Surrogate = "cnn"
    form: Form = "one_step"
    steps: int | None = None
    eps_255: int = 8
    time: float | None = None
    block_size: int = 512
    validation_rows: int = 2000

    goal: ClassVar[Goal] = "availability"
    target_field: ClassVar[str | None] = None
    example: ClassVar[Mapping[str, Any]] = {"block_size": 128, "validation_rows": 40}

    def __post_init__(self) -> None:
        if not 1 <= self.eps_255 <= 255:
            raise DataError(f"eps_255 is in grey levels, 1..255; got {self.eps_255}.")
        if self.steps is not None and self.steps < 1:
            raise DataError(f"steps must be at least 1; got {self.steps}.")
        if self.form == "one_step" and self.steps not in (None, 1):
            raise DataError(f"one_step has 1 step; for {self.steps} set form to 'multi_step'.")
        if self.time is not None and not 0 < self.time < float("inf"):
            raise DataError(f"time must be positive and finite; got {self.time}.")
        if min(self.block_size, self.validation_rows) < 1:
            raise DataError(
                "block_size and validation_rows must be at least 1; "
                f"got {self.block_size} and {self.validation_rows}."
            )

    def check(self, train: ImageSet, test: ImageSet) -> None:
        """Check that there are rows outside a block to judge it by."""
        others = len(train) - self.block_size
        if self.validation_rows > others:
            raise DataError(
                f"validation_rows is {self.validation_rows}; of {len(train)} training rows "
                f"{max(others, 0)} lie outside a block of {self.block_size} (block_size)."
            )

    def bounds(self, train: ImageSet) -> Bounds:
        """Return that all rows may change, labels kept, within ``eps_255``."""
        return Bounds(rows=len(train), eps_255=self.eps_255, keeps_labels=True)

    def poison(self, train: ImageSet, test: ImageSet, rng: np.random.Generator) -> PoisonedSet:
        """Perturb all rows, block by block."""
        self.check(train, test)
        images, seed = train.images.copy(), subseed(rng)
        details = {f"form_{self.form}": 1.0, "steps": float(self.count)}
        for rows, judges in blocks(len(train), self.block_size, self.validation_rows, seed):
            block, objective = train.take(rows), self.objective(train.take(judges))
            images[rows] = self.perturbed(block, objective)
            if "loss" not in details:  # of one block: it costs time, and the others are alike
                details["loss_before"] = objective.loss(labelled(block))
                details["loss"] = objective.loss(labelled(block.with_images(images[rows])))
        return PoisonedSet(train.with_images(images), train.ids, (), self.goal, details)

    @property
    def count(self) -> int:
        """Steps per block."""
        return self.steps or STEPS[self.form]

    def objective(self, validation: ImageSet) -> Objective:
        """Return what the attacker raises: the surrogate's loss on these rows."""
        return Objective(
            tangent_kernel(self.surrogate, validation.image_shape),
            labelled(validation),
            validation.num_classes,
            self.time or BEST_TIME[self.surrogate],
        )

    def perturbed(self, block: ImageSet, objective: Objective) -> NDArray[np.uint8]:
        """Return one block's images after the attack, within the bound; no draw is made."""
        eps = self.eps_255 / 255
        length = eps if self.form == "one_step" else OVERSHOOT * eps / self.count
        delta = perturb(objective, labelled(block), eps, self.count, length)
        return add_within(block.images, delta.cpu().numpy(), self.eps_255)


def labelled(images: ImageSet) -> Labelled:
    """Return stored images as floats in [0, 1], and their labels, on this process's device."""
    device = pick_device()
    return Labelled(to_float(images.images, device), torch.tensor(images.labels).to(device))


def blocks(
    rows: int, block_size: int, validation_rows: int, seed: int
) -> Iterator[tuple[Rows, Rows]]:
    """Yield the positions of each block, and of the rows that judge it; no block needs another.

    The rows are shuffled first: a set that is sorted by class would have blocks of one class. All
    blocks are judged by the first rows in that order that are not their own: by the same ones but
    for the first blocks, so that their perturbations of a class agree.
    """
    order = stream(seed, "order").permutation(rows)
    for start in range(0, rows, block_size):
        part = slice(start, start + block_size)
        yield order[part], np.delete(order, part)[:validation_rows]
