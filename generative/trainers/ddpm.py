"""The denoising diffusion model of PureGen, with its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from generative.ddpm import DDPM
from generative.ddpm_checkpoints import load_ddpm, save_ddpm
from generative.ddpm_training import DDPMRecipe, Progress, check_training, fitted, train_ddpm
from generative.unet import UNetConfig
from harness.core.protocols import GENERATORS


@GENERATORS.register(paper="arXiv:2405.18627; arXiv:2006.11239")
@dataclass(frozen=True, slots=True, kw_only=True)
class Ddpm:
    """U-Net that predicts noise, trained on the noise levels below a horizon.

    Attributes:
        unet: Shape of the network.
        recipe: Updates, rates, noise levels.
    """

    unet: UNetConfig = field(default_factory=UNetConfig)
    recipe: DDPMRecipe = field(default_factory=DDPMRecipe)

    produces: ClassVar[type] = DDPM
    example: ClassVar[Mapping[str, Any]] = {
        "unet": {
            "block_out_channels": [8, 16, 16],
            "norm_num_groups": 4,
            "attention_head_dim": 8,
        },
        "recipe": {"iterations": 4, "batch_size": 8},
    }

    def check(self, images: NDArray[np.uint8]) -> None:
        """Check the recipe and the network against the images; nothing is trained."""
        check_training(images, self.unet, self.recipe)

    def untrained(self, images: NDArray[np.uint8]) -> DDPM:
        """Return the network that training on these images would, without values."""
        with torch.device("meta"):
            return DDPM(fitted(self.unet, images), self.recipe.horizon)

    def train(
        self,
        images: NDArray[np.uint8],
        seed: int,
        *,
        device: str = "auto",
        checkpoint: Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> DDPM:
        """Train on uint8 (N, C, H, W); goes on from ``checkpoint`` where that exists."""
        return train_ddpm(
            images, self.unet, self.recipe, seed,
            device=device, checkpoint=checkpoint, on_progress=on_progress,
        )  # fmt: skip

    @staticmethod
    def save(folder: Path, model: DDPM, note: Mapping[str, Any]) -> None:
        """Write weights and configuration into a folder."""
        save_ddpm(folder, model, note)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> DDPM:
        """Read a folder that :meth:`save` wrote, or a published checkpoint."""
        return load_ddpm(path, device)
