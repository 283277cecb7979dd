"""PureGen-DDPM: images are diffused part of the way to noise and denoised again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from defenses._purify import (
    check_at_least_one,
    check_ddpm_takes,
    device_of,
    diffusion_steps,
    in_flight,
    purify_images,
)
from generative.ddpm import DDPM, Diffusion, SamplerName, Start
from harness.core.data import ImageSet
from harness.core.device import Precision
from harness.core.protocols import DEFENSES, TrainingHook
from harness.core.seeds import subseed


@DEFENSES.register(paper="arXiv:2405.18627")
@dataclass(frozen=True, slots=True, kw_only=True)
class PuregenDdpm:
    """Purifies every training image by diffusing it some time steps and denoising it again.

    The noise covers small unnatural patterns, and the network takes the noise away. Test images
    are not purified: it is a train-time defense.

    Attributes:
        ddpm: Noise predictor, trained on data disjoint from the defended set.
        steps: Time steps: 75 from scratch, 125 for transfer in the paper; at most its horizon.
        sampler: How the noise is taken away; ``ddim`` and ``dpmpp_2m`` add none again.
        network_calls: Time steps at which the network is asked; None is all, as published.
        start: ``consistent`` diffuses to the noise level that the first reverse step expects,
            ``faithful`` one level further, as the published code does.
        precision: Type the network computes in; the state stays float32.
        batch_size: Images in flight, as many as are given; None as many as suit the device and fit
            in its memory. It changes the speed alone.
    """

    ddpm: DDPM
    steps: int = 75
    sampler: SamplerName = "ancestral"
    network_calls: int | None = None
    start: Start = "consistent"
    precision: Precision = "auto"
    batch_size: int | None = None

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {
        "ddpm": {
            "name": "ddpm",
            "unet": {
                "block_out_channels": [8, 16, 16],
                "norm_num_groups": 4,
                "attention_head_dim": 8,
            },
            "recipe": {"iterations": 4, "batch_size": 8, "horizon": 30},
            "dataset": {"name": "shapes", "kind": "pood", "train": 48, "test": 6},
        },
        "steps": 5,
    }

    def __post_init__(self) -> None:
        check_at_least_one(batch_size=self.batch_size)
        self._diffusion()

    def _diffusion(self) -> Diffusion:
        return Diffusion(
            steps=self.steps,
            sampler=self.sampler,
            network_calls=self.network_calls,
            start=self.start,
        )

    def check(self, train: ImageSet) -> None:
        """Check that the network can take these images, and was trained up to these steps."""
        check_ddpm_takes(self.ddpm, self._diffusion(), train)

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows with purified pixels."""
        self.check(train)
        images = purify_images(
            train.images, train.ids,
            diffusion_steps(self.ddpm, self._diffusion(), self.precision), subseed(rng),
            batch_size=in_flight(self.batch_size, train.image_shape, self.ddpm),
            device=device_of(self.ddpm),
        )  # fmt: skip
        return train.with_images(images)

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
