"""PureGen-Naive: the energy-based model first, then the diffusion model."""

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
    energy_steps,
    in_flight,
    in_turn,
    purify_images,
)
from generative.ddpm import DDPM, Diffusion, SamplerName, Start
from generative.ebm import EBM, check_energy_takes
from generative.langevin import TEMPERATURE, check_calls
from harness.core.data import ImageSet
from harness.core.device import Precision
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook
from harness.core.seeds import subseed


@DEFENSES.register(paper="arXiv:2405.18627, appendix C")
@dataclass(frozen=True, slots=True, kw_only=True)
class PuregenNaive:
    """Purifies every training image by Langevin steps, then by diffusing and denoising it.

    Between the two the images are neither rounded nor clamped. Test images are not purified.

    Attributes:
        ebm: Energy network, trained on data disjoint from the defended set.
        ddpm: Noise predictor, likewise.
        ebm_steps: Langevin steps.
        ddpm_steps: Time steps of the diffusion; at most the horizon of ``ddpm``.
        temperature: Divides the energy.
        steps_per_call: Langevin steps per call of the energy network; 1 as published.
        sampler: How the noise is taken away; ``ddim`` and ``dpmpp_2m`` add none again.
        network_calls: Time steps at which the network is asked; None is all, as published.
        start: ``consistent`` diffuses to the noise level that the first reverse step expects,
            ``faithful`` one level further, as the published code does.
        precision: Type the networks compute in; the state stays float32.
        batch_size: Images in flight, as many as are given; None as many as suit the device and fit
            in its memory. It changes the speed alone.
    """

    ebm: EBM
    ddpm: DDPM
    ebm_steps: int = 150
    ddpm_steps: int = 75
    temperature: float = TEMPERATURE
    steps_per_call: int = 1
    sampler: SamplerName = "ancestral"
    network_calls: int | None = None
    start: Start = "consistent"
    precision: Precision = "auto"
    batch_size: int | None = None

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {
        "ebm": {
            "name": "ebm",
            "nf": 8,
            "recipe": {"iterations": 4, "batch_size": 8, "bank_size": 16, "chain_steps": 2},
            "dataset": {"name": "shapes", "kind": "pood", "train": 48, "test": 6},
        },
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
        "ebm_steps": 3,
        "ddpm_steps": 3,
    }

    def __post_init__(self) -> None:
        check_at_least_one(ebm_steps=self.ebm_steps, batch_size=self.batch_size)
        if self.temperature <= 0:
            raise DataError(f"temperature must be positive; got {self.temperature}.")
        check_calls(self.ebm_steps, self.steps_per_call, "ebm_steps")
        self._diffusion()

    def _diffusion(self) -> Diffusion:
        return Diffusion(
            steps=self.ddpm_steps,
            sampler=self.sampler,
            network_calls=self.network_calls,
            start=self.start,
        )

    def check(self, train: ImageSet) -> None:
        """Check that both networks can take these images."""
        check_energy_takes(self.ebm, train.image_shape)
        check_ddpm_takes(self.ddpm, self._diffusion(), train)

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows with purified pixels."""
        self.check(train)
        stages = [
            energy_steps(
                self.ebm,
                self.ebm_steps,
                self.precision,
                self.temperature,
                steps_per_call=self.steps_per_call,
            ),
            diffusion_steps(self.ddpm, self._diffusion(), self.precision),
        ]
        images = purify_images(
            train.images, train.ids, in_turn(stages), subseed(rng),
            batch_size=in_flight(self.batch_size, train.image_shape, self.ebm, self.ddpm),
            device=device_of(self.ddpm),
        )  # fmt: skip
        return train.with_images(images)

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
