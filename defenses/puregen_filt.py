"""PureGen-Filt: only the images that the energy-based model finds least natural are purified."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from defenses._purify import (
    check_at_least_one,
    check_ddpm_takes,
    device_of,
    diffusion_steps,
    in_flight,
    purify_images,
    score,
)
from generative.ddpm import DDPM, Diffusion, SamplerName, Start
from generative.ebm import EBM, check_energy_takes
from harness.core.data import ImageSet
from harness.core.device import Precision
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook
from harness.core.seeds import subseed


def highest(scores: NDArray[np.float32], share: float) -> NDArray[np.int64]:
    """Return the positions, ascending, of the floor(share x N) highest scores.

    Of equal scores the earlier one comes first.

    >>> highest(np.float32([3, 1, 2, 5, 4]), 0.5).tolist()
    [3, 4]
    """
    # The small addition keeps 0.29 x 100 from being 28.
    count = int(np.floor(share * len(scores) + 1e-9))
    return np.sort(np.argsort(-scores, kind="stable")[:count]).astype(np.int64)


@DEFENSES.register(paper="arXiv:2405.18627, appendix C")
@dataclass(frozen=True, slots=True, kw_only=True)
class PuregenFilt:
    """Purifies the share of the training images with the highest energy; keeps the others.

    The ranking is over the whole training set, as it comes: no image is purified before it is
    ranked. (The published code ranks poisons that are purified already, so that none of them is
    ever kept; expect higher success of the attack here.) Test images are not purified.

    Attributes:
        ebm: Energy network that ranks, trained on data disjoint from the defended set.
        ddpm: Noise predictor that purifies, likewise.
        share: Share of the images that is purified, rounded down, in (0, 1].
        steps: Time steps of the diffusion; at most the horizon of ``ddpm``.
        sampler: How the noise is taken away; ``ddim`` and ``dpmpp_2m`` add none again.
        network_calls: Time steps at which the network is asked; None is all, as published.
        start: ``consistent`` diffuses to the noise level that the first reverse step expects,
            ``faithful`` one level further, as the published code does.
        precision: Type the noise predictor computes in; energies are always in float32.
        batch_size: Images in flight, as many as are given; None as many as suit the device and fit
            in its memory. It changes the speed alone.
    """

    ebm: EBM
    ddpm: DDPM
    share: float = 0.5
    steps: int = 125
    sampler: SamplerName = "ancestral"
    network_calls: int | None = None
    start: Start = "consistent"
    precision: Precision = "auto"
    batch_size: int | None = None

    rowwise: ClassVar[bool] = False
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
        "steps": 5,
    }

    def __post_init__(self) -> None:
        check_at_least_one(batch_size=self.batch_size)
        if not 0 < self.share <= 1:
            raise DataError(
                f"share must lie in (0, 1]; got {self.share}. No defense is the defense 'none'."
            )
        self._diffusion()

    def _diffusion(self) -> Diffusion:
        return Diffusion(
            steps=self.steps,
            sampler=self.sampler,
            network_calls=self.network_calls,
            start=self.start,
        )

    def check(self, train: ImageSet) -> None:
        """Check that both networks can take these images, and that the share is not empty."""
        check_energy_takes(self.ebm, train.image_shape)
        check_ddpm_takes(self.ddpm, self._diffusion(), train)
        if self.share * len(train) < 1:
            raise DataError(f"a share of {self.share} of {len(train)} images is none of them.")

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the same rows, those of high energy with purified pixels."""
        self.check(train)
        rows = highest(score(train.images, self.ebm, batch_size=self.batch_size), self.share)
        images = train.images.copy()
        images[rows] = purify_images(
            train.images[rows], train.ids[rows],
            diffusion_steps(self.ddpm, self._diffusion(), self.precision), subseed(rng),
            batch_size=in_flight(self.batch_size, train.image_shape, self.ddpm),
            device=device_of(self.ddpm),
        )  # fmt: skip
        return train.with_images(images)

    def hooks(self) -> Sequence[TrainingHook]:
        """Return no hook."""
        return ()
