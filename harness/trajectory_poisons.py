"""Where the poisoned images of a trajectory come from, beside the clean ones they were made of."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from attacks.narcissus import read_trigger
from harness.core.data import Dataset, ImageSet
from harness.core.errors import DataError, UsageError
from harness.core.params import ComponentSpec
from harness.core.pixels import add_within
from harness.core.seeds import stream
from harness.generator_tools import first_images
from harness.interop.poison_set import UNKNOWN, read_poison_set
from harness.poisons import changed_rows
from harness.workshop import Workshop

Pair = tuple[ImageSet, NDArray[np.uint8], str]


def rows_of_attack(
    data: Dataset, attack: ComponentSpec, seed: int, count: int, workshop: Workshop
) -> Pair:
    """Return the rows that an attack changes, clean and poisoned, and what the poison is.

    Args:
        data: What is attacked.
        attack: With its target.
        seed: Of the attack.
        count: At most so many rows.
        workshop: Has the poisons, or makes them.
    """
    crafted, _ = workshop.poisoned(data, attack, seed)
    rows = changed_rows(data.train, crafted.train)[:count]
    return data.train.take(rows), crafted.train.images[rows], f"attack {attack.name}"


def rows_of_poisons(data: Dataset, folder: Path, count: int) -> Pair:
    """Return the training rows that an imported set of poisons was made of, and the poisons."""
    made = read_poison_set(folder)
    known = np.flatnonzero(made.base_ids != UNKNOWN)[:count]
    clean = data.train.take(data.train.positions(made.base_ids[known]))
    return clean, made.images[known], f"poisons {folder.name}"


def rows_with_pattern(
    data: Dataset, trigger: Path | None, eps_255: int, count: int, seed: int
) -> Pair:
    """Return test images without and with a trigger, or one random pattern where there is none."""
    if not 1 <= eps_255 <= 255:
        raise UsageError(f"eps_255 is in grey levels, 1..255; got {eps_255}.")
    clean = first_images(data, count)
    if trigger is not None:
        delta, what = read_trigger(trigger, eps_255), f"trigger {trigger.name}"
    else:
        signs = stream(seed, "pattern").integers(0, 2, clean.image_shape) * 2 - 1
        delta, what = (signs * (eps_255 / 255)).astype(np.float32), f"random ±{eps_255}/255 pattern"
    if delta.shape != clean.image_shape:
        raise DataError(f"the trigger has shape {delta.shape}, the images {clean.image_shape}.")
    return clean, add_within(clean.images, delta, eps_255), what
