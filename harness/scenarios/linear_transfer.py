"""The victim keeps a pretrained network's features and learns a linear head on them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from harness.core.data import ImageSet
from harness.core.device import pick_dtype
from harness.core.protocols import SCENARIOS, Classifier, TrainingHook
from harness.core.recipe import Recipe
from harness.linear_head import LinearHeads, train_heads
from harness.scenarios._start import linear_head, network_of, new_head
from harness.training import Epoch, Predictor, fit


@SCENARIOS.register(paper="arXiv:2005.00191")
@dataclass(frozen=True, slots=True, kw_only=True)
class LinearTransfer:
    """Freezes pretrained features, with their normalisation statistics, and trains a new head.

    Without augmentation and without a defense in the training, the features are computed once and
    the head is trained on them alone, which gives the same for a hundredth of the time. The curves
    of such a training have one point, at its end.
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
    ) -> Predictor:
        """Train the head as the classifier's recipe says."""
        model = new_head(network_of(start), train.num_classes, rng).to(device)
        recipe = classifier.recipe
        for parameter in model.parameters():
            parameter.requires_grad_(False)
        head = linear_head(model).requires_grad_(True)
        if not hooks and not recipe.flip and not recipe.crop_pad:
            return _train_on_features(model, train, recipe, rng, on_epoch)
        return fit(
            model, train, recipe, rng, hooks=hooks, device=device, on_epoch=on_epoch,
            trainable=list(head.parameters()), frozen_statistics=True,
        )  # fmt: skip


def _train_on_features(
    model: nn.Module,
    train: ImageSet,
    recipe: Recipe,
    rng: np.random.Generator,
    on_epoch: Callable[[Epoch, nn.Module], None] | None,
) -> Predictor:
    head = linear_head(model)
    predict = Predictor(model, pick_dtype(recipe.precision, head.weight.device))
    features = torch.from_numpy(predict.features(train.images)).to(head.weight.device)
    labels = torch.tensor(train.labels).to(head.weight.device)
    start = LinearHeads(head.weight.detach()[None], head.bias.detach()[None])
    trained = train_heads(features, labels, train.num_classes, recipe, [rng], initial=start)
    with torch.no_grad():
        head.weight.copy_(trained.weight[0])
        head.bias.copy_(trained.bias[0])
        loss = F.cross_entropy(head(features), labels, label_smoothing=recipe.label_smoothing)
    if on_epoch:
        on_epoch(Epoch(recipe.epochs - 1, float(loss), len(train)), model)
    return predict
