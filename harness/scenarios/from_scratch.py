"""The victim is trained from random weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from harness.core.data import ImageSet
from harness.core.protocols import SCENARIOS, Classifier, TrainingHook
from harness.training import Checkpoint, Epoch, Predictor, build_model, fit


@SCENARIOS.register()
@dataclass(frozen=True, slots=True, kw_only=True)
class FromScratch:
    """Trains the whole network from random weights on the poisoned set."""

    pretrained: ClassVar[bool] = False
    example: ClassVar[Mapping[str, Any]] = {}

    def train(
        self,
        classifier: Classifier,
        start: Predictor | None,
        train: ImageSet,
        rng: np.random.Generator,
        *,
        hooks: Sequence[TrainingHook] = (),
        device: torch.device | str = "cpu",
        on_epoch: Callable[[Epoch, nn.Module], None] | None = None,
        checkpoint: Checkpoint | None = None,
    ) -> Predictor:
        """Train as the classifier's recipe says; ``start`` is not used."""
        model = build_model(classifier.build, train.num_classes, train.image_shape, rng)
        return fit(
            model, train, classifier.recipe, rng, hooks=hooks, device=device, on_epoch=on_epoch,
            checkpoint=checkpoint,
        )  # fmt: skip
