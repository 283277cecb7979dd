"""The energy-based model of PureGen and PureEBM, with its training."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray

from generative.checkpoints import load_ebm, save_ebm
from generative.ebm import EBM, EBMConfig
from generative.ebm_training import EBMRecipe, Progress, check_training, train_ebm
from harness.core.protocols import GENERATORS


@GENERATORS.register(paper="arXiv:2405.18627, arXiv:2405.19376")
@dataclass(frozen=True, slots=True, kw_only=True)
class Ebm:
    """Energy network trained by contrastive divergence with persistent chains.

    Attributes:
        nf: Width of the network; 128 is the published one, 16 to 32 suit CPUs.
        patch_size: Pixel-unshuffle factor before the first block; 1 is none.
        recipe: Updates, rates, chains.
    """

    nf: int = 32
    patch_size: int = 1
    recipe: EBMRecipe = field(default_factory=EBMRecipe)

    produces: ClassVar[type] = EBM
    example: ClassVar[Mapping[str, Any]] = {
        "nf": 8,
        "recipe": {"iterations": 4, "batch_size": 8, "bank_size": 16, "chain_steps": 2},
    }

    def __post_init__(self) -> None:
        self._config()

    def _config(self) -> EBMConfig:
        return EBMConfig(nf=self.nf, patch_size=self.patch_size)

    def check(self, images: NDArray[np.uint8]) -> None:
        """Check the recipe and the network against the images; nothing is trained."""
        check_training(images, self._config(), self.recipe)

    def untrained(self, images: NDArray[np.uint8]) -> EBM:
        """Return the network that training on these images would, without values."""
        with torch.device("meta"):
            return EBM(self._config())

    def train(
        self,
        images: NDArray[np.uint8],
        seed: int,
        *,
        device: str = "auto",
        checkpoint: Path | None = None,
        on_progress: Callable[[Progress], None] | None = None,
    ) -> EBM:
        """Train on uint8 (N, 3, H, W); goes on from ``checkpoint`` where that exists."""
        return train_ebm(
            images, self._config(), self.recipe, seed,
            device=device, checkpoint=checkpoint, on_progress=on_progress,
        )  # fmt: skip

    @staticmethod
    def save(folder: Path, model: EBM, note: Mapping[str, Any]) -> None:
        """Write weights and configuration into a folder."""
        save_ebm(folder, model, note)

    @staticmethod
    def load(path: Path, device: str = "cpu") -> EBM:
        """Read a folder that :meth:`save` wrote, or a published checkpoint."""
        return load_ebm(path, device)
