"""The victim keeps a pretrained network's features and learns a linear head on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from harness.core.data import ImageSet
from harness.core.protocols import SCENARIOS, Classifier, TrainingHook
from harness.scenarios._heads import FrozenFeatures, HeadPredictor, train_on_features
from harness.scenarios._start import linear_head, network_of, new_head
from harness.training import Checkpoint, Epoch, Predictor, fit


@SCENARIOS.register(paper="arXiv:2005.00191")
@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTransfer:
    """Freezes pretrained features, with their normalisation statistics, and trains a new head.

    Without augmentation and without a defense in the training, the features are computed once and
    the heads are trained on them alone, those of all victims of one network as one problem: the
    same for a hundredth of the time. The curves of such a training have one point, at its end.
    """

    pretrained: ClassVar[bool] = True
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
        """Train the head as the classifier's recipe says."""
        model = new_head(network_of(start), train.num_classes, rng).to(device)
        recipe = classifier.recipe
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        head = linear_head(model).requires_grad_(True)
        return fit(
            model, train, recipe, rng, hooks=hooks, device=device, on_epoch=on_epoch,
            checkpoint=checkpoint, trainable=list(head.parameters()), frozen_statistics=True,
        )  # fmt: skip

    def joins(self, classifier: Classifier, hooks: Sequence[TrainingHook]) -> bool:
        """Whether :meth:`train_many` can train such a victim."""
        recipe = classifier.recipe
        return not (hooks or recipe.flip or recipe.crop_pad or recipe.cutout)

    def train_many(
        self,
        classifier: Classifier,
        start: Predictor | None,
        trains: Sequence[ImageSet],
        rngs: Sequence[np.random.Generator],
        *,
        device: torch.device | str = "cpu",
    ) -> list[HeadPredictor]:
        """Train one head per training set on the same features."""
        model = network_of(start).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        features = FrozenFeatures(model, classifier.recipe)
        return train_on_features(features, trains, classifier.recipe, rngs)
