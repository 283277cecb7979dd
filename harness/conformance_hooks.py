"""What a defense's hooks do in a short training, for the rules that they must keep."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from harness.classifiers.hlb_xs import HlbXs
from harness.conformance_calls import call
from harness.conformance_rules import require
from harness.core.data import ImageSet
from harness.core.hooks import CheckedHook
from harness.core.registry import Entry
from harness.core.seeds import stream
from harness.training import build_model

EPOCHS, BATCH = 3, 64
# Closer to [0, 1] than in a training, whose noise may be of any size: images in [-1, 1] or
# standardised ones lie outside.
LOWEST, HIGHEST = -0.5, 1.5
IDLE = f"within {EPOCHS} epochs of its example its hooks change no rows, batch, weight or gradient"


@dataclass(frozen=True, slots=True)
class InTraining:
    """What hooks made in a training.

    Attributes:
        digest: Of all of it.
        acts: Whether the training is another one than without them.
    """

    digest: str
    acts: bool


def hooks_of(entry: Entry[Any], defense: Any) -> tuple[Any, ...]:
    """Return fresh hooks of one training."""
    return tuple(call(entry, defense.hooks, returns=Sequence))


def hooks_outcome(entry: Entry[Any], defense: Any, train: ImageSet) -> InTraining:
    """Run a defense's hooks for a few epochs of one batch, and return what they made.

    Raises:
        Violation: If they fail, or return what a training does not take.
    """
    model = build_model(
        HlbXs(widths=(8, 8, 8)).build, train.num_classes, train.image_shape, stream(0, "model")
    ).eval()
    images = torch.tensor(train.images).float().div_(255)
    sha = hashlib.sha256()
    untouched, acts = _gradient(model, images[:BATCH], train), False
    for hook in hooks_of(entry, defense):
        checked = CheckedHook(hook, LOWEST, HIGHEST)
        for epoch in range(EPOCHS):
            noise = stream(0, "hook", epoch)
            rows = call(entry, checked.before_epoch, epoch, train, model, noise)
            require(len(rows) > 0, f"its hooks leave rows to train on in epoch {epoch}")
            batch = rows[:BATCH]
            x = call(entry, checked.on_batch, images[batch], batch, stream(0, "augment", epoch))
            call(entry, checked.check_values, what="on_batch")
            gradient = _gradient(model, images[:BATCH], train)
            acts = acts or len(rows) < len(train) or not torch.equal(x, images[batch])
            acts = acts or not torch.equal(gradient, untouched)
            for part in (np.sort(rows), x.detach().numpy(), gradient.numpy()):
                sha.update(part.tobytes())
    return InTraining(sha.hexdigest(), acts)


def _gradient(model: nn.Module, x: Tensor, train: ImageSet) -> Tensor:
    """Return a training's gradient, which hooks of the network and its weights may change."""
    labels = torch.tensor(train.labels[: len(x)])
    model.zero_grad()
    torch.nn.functional.cross_entropy(model(x), labels).backward()  # type: ignore[no-untyped-call]
    found = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    model.zero_grad()
    return found
