"""What a defense's hooks do in a short training, for the rules that they must keep."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from harness.classifiers.hlb_xs import HlbXs
from harness.conformance_calls import call, require
from harness.core.data import ImageSet
from harness.core.hooks import CheckedHook
from harness.core.registry import Entry
from harness.core.seeds import stream
from harness.training import build_model

EPOCHS, BATCH = 3, 64
# Closer to [0, 1] than in a training, whose noise may be of any size: images in [-1, 1] or
# standardised ones lie outside.
LOWEST, HIGHEST = -0.5, 1.5


def hooks_of(entry: Entry[Any], defense: Any) -> tuple[Any, ...]:
    """Return fresh hooks of one training."""
    return tuple(call(entry, defense.hooks, returns=Sequence))


def hooks_outcome(entry: Entry[Any], defense: Any, train: ImageSet) -> str:
    """Run a defense's hooks for a few epochs of one batch, and return what they made as a digest.

    Raises:
        Violation: If they fail, or return what a training does not take.
    """
    model = build_model(
        HlbXs(widths=(8, 8, 8)).build, train.num_classes, train.image_shape, stream(0, "model")
    ).eval()
    images = torch.tensor(train.images).float().div_(255)
    sha = hashlib.sha256()
    for hook in hooks_of(entry, defense):
        checked = CheckedHook(hook, LOWEST, HIGHEST)
        for epoch in range(EPOCHS):
            noise = stream(0, "hook", epoch)
            rows = call(entry, checked.before_epoch, epoch, train, model, noise)
            require(len(rows) > 0, f"its hooks leave rows to train on in epoch {epoch}")
            batch = rows[:BATCH]
            x = call(entry, checked.on_batch, images[batch], batch, stream(0, "augment", epoch))
            call(entry, checked.check_values, what="on_batch")
            sha.update(np.sort(rows).tobytes() + x.detach().numpy().tobytes())
    return sha.hexdigest()
