"""What attacks that relabel their poisons share: how many rows, and from which classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from attacks._triggered import check_label, choose_rows
from harness.core.data import ImageSet
from harness.core.errors import DataError


def check_budget(budget: float) -> None:
    """Raise unless a budget is a share in (0, 1]."""
    if not 0 < budget <= 1:
        raise DataError(f"budget is a share in (0, 1]; got {budget}.")


def poison_count(budget: float, train: ImageSet) -> int:
    """Return the number of poisons, at least 1."""
    return max(1, round(budget * len(train)))


def check_rows(adv_label: int, budget: float, train: ImageSet) -> None:
    """Raise unless the label is a class of the data and other classes have enough rows."""
    check_label(adv_label, train)
    others, wanted = int(np.sum(train.labels != adv_label)), poison_count(budget, train)
    if wanted > others:
        raise DataError(
            f"budget {budget} asks for {wanted} poisons; there are {others} rows of other classes."
        )


def draw_rows(
    adv_label: int, budget: float, train: ImageSet, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return the positions of random rows of other classes, ascending.

    Published code draws from all classes; a row of ``adv_label`` keeps its label and teaches
    nothing, so that a tenth of such a budget does no work.
    """
    others = np.flatnonzero(train.labels != adv_label).astype(np.int64)
    return choose_rows(others, poison_count(budget, train), "random", rng)


def relabelled(
    train: ImageSet, rows: NDArray[np.int64], images: NDArray[np.uint8], adv_label: int
) -> ImageSet:
    """Return the training set with these rows' pixels replaced and their label ``adv_label``."""
    pixels, labels = train.images.copy(), train.labels.copy()
    pixels[rows], labels[rows] = images, adv_label
    return ImageSet(pixels, labels, train.ids, train.num_classes)
