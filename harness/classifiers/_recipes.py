"""Recipes that several classifiers share."""

from __future__ import annotations

from harness.core.recipe import Recipe


def from_scratch() -> Recipe:
    """Return the PureGen paper's training from scratch (arXiv 2405.18627, hyper-parameter table).

    200 epochs of SGD with momentum 0.9 and weight decay 5e-4, rate 0.1 divided by 10 after 100 and
    150 epochs, batch 128, mirroring and crops of 4 px, no label smoothing.
    """
    return Recipe(
        epochs=200, batch_size=128, lr=0.1, momentum=0.9, weight_decay=5e-4, label_smoothing=0.0,
        schedule="multistep", milestones=(100, 150), flip=True, crop_pad=4,
    )  # fmt: skip
