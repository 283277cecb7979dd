"""PureGen-EBM: Langevin dynamics on an energy-based model moves images back to natural ones."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from defenses._purify import (
    Purifier,
    check_at_least_one,
    device_of,
    energy_steps,
    in_flight,
    purify_images,
    snapshot_images,
)
from generative.ebm import EBM, check_energy_takes
from generative.langevin import STEP_SIZE, TEMPERATURE, check_calls
from harness.core.data import ImageSet
from harness.core.device import Precision
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook
from harness.core.seeds import subseed


@DEFENSES.register(paper="arXiv:2405.18627, arXiv:2405.19376")
@dataclass(frozen=True, slots=True, kw_only=True)
class PuregenEbm:
    """Purifies every training image by Langevin steps on an energy-based model.

    The steps lower the energy, which takes small unnatural patterns away, and their noise covers
    what is left. Test images are not purified: it is a train-time defense.

    Attributes:
        ebm: Energy network, trained on data disjoint from the defended set.
        steps: Langevin steps: 150 from scratch, 500 linear transfer, 1000 fine-tune in the paper.
        temperature: Divides the energy.
        step_size: Noise standard deviation per step, in units of [-1, 1].
        steps_per_call: Steps that one call of the network stands for, a divisor of ``steps``: 1 as
            published; 2 takes half the time. What that changes, ``generators samplers`` tells.
        precision: Type the network computes in; the state stays float32.
        batch_size: Images in flight, as many as are given; None as many as suit the device and fit
            in its memory. It changes the speed alone.
    """

    ebm: EBM
    steps: int = 150
    temperature: float = TEMPERATURE
    step_size: float = STEP_SIZE
    steps_per_call: int = 1
    precision: Precision = "auto"
    batch_size: int | None = None

    rowwise: ClassVar[bool] = True
    snapshots_over: ClassVar[str] = "steps"
    example: ClassVar[Mapping[str, Any]] = {
        "ebm": {
            "name": "ebm",
            "nf": 8,
            "recipe": {"iterations": 4, "batch_size": 8, "bank_size": 16, "chain_steps": 2},
            "dataset": {"name": "shapes", "kind": "pood", "train": 48, "test": 6},
        },
        "steps": 5,
    }

    def __post_init__(self) -> None:
        check_at_least_one(steps=self.steps, batch_size=self.batch_size)
        if self.temperature <= 0 or self.step_size <= 0:
            raise DataError("temperature and step_size must be positive.")
        check_calls(self.steps, self.steps_per_call)

    def check(self, train: ImageSet) -> None:
        """Check that the network can take these images."""
        check_energy_takes(self.ebm, train.image_shape)

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows with purified pixels."""
        self.check(train)
        images = purify_images(
            train.images, train.ids, self._purifier(self.steps), subseed(rng),
            batch_size=in_flight(self.batch_size, train.image_shape, self.ebm),
            device=device_of(self.ebm),
        )  # fmt: skip
        return train.with_images(images)

    def snapshots(
        self, train: ImageSet, rng: np.random.Generator, values: Sequence[int]
    ) -> Iterator[ImageSet]:
        """Yield the rows after each of these numbers of steps of one chain."""
        self.check(train)
        for images in snapshot_images(
            train.images, train.ids, self._purifier, values, subseed(rng),
            batch_size=in_flight(self.batch_size, train.image_shape, self.ebm),
            device=device_of(self.ebm),
        ):  # fmt: skip
            yield train.with_images(images)

    def _purifier(self, steps: int) -> Purifier:
        return energy_steps(
            self.ebm, steps, self.precision,
            self.temperature, self.step_size, self.steps_per_call,
        )  # fmt: skip

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
