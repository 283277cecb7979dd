"""The victim goes on training all weights of a pretrained network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from harness.core.data import ImageSet
from harness.core.protocols import SCENARIOS, Classifier, TrainingHook
from harness.scenarios._start import check_same_classes, network_of, new_head
from harness.training import Checkpoint, Epoch, Predictor, fit


@SCENARIOS.register(paper="arXiv:2005.00191")
@dataclass(frozen=True, slots=True, kw_only=True)
class FineTune:
    """Starts from pretrained weights and trains all of them on the poisoned set.

    Attributes:
        head: ``keep`` the pretrained linear head, or train a ``new`` one (PureGen).
        batch_norm: ``trained``; ``frozen``: statistics stay the pretrained ones, scales and shifts
            are trained (Bullseye Polytope's own victims); or ``fixed``: scales and shifts stay too
            (PureGen's victims of Bullseye Polytope).
    """

    head: Literal["keep", "new"] = "keep"
    batch_norm: Literal["trained", "frozen", "fixed"] = "trained"

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
        """Train on as the classifier's recipe says."""
        model = network_of(start)
        if self.head == "new":
            model = new_head(model, train.num_classes, rng)
        check_same_classes(model, train.num_classes)
        if self.batch_norm == "fixed":
            for module in model.modules():
                if isinstance(module, _BatchNorm):
                    module.requires_grad_(False)
        return fit(
            model, train, classifier.recipe, rng, hooks=hooks, device=device, on_epoch=on_epoch,
            checkpoint=checkpoint, trainable=[p for p in model.parameters() if p.requires_grad],
            frozen_statistics=self.batch_norm != "trained",
        )  # fmt: skip
