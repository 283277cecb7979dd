"""What attacks with a trigger share: which rows they take, and the probes that judge them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet, Probe
from harness.core.errors import DataError

Rule = Literal["last", "first", "random"]


def check_label(adv_label: int, images: ImageSet) -> None:
    """Raise unless the adversary's label is a class of the data, with rows."""
    if not 0 <= adv_label < images.num_classes:
        raise DataError(
            f"adv_label is {adv_label}; the data have the classes 0..{images.num_classes - 1}."
        )
    if not np.any(images.labels == adv_label):
        raise DataError(f"class {adv_label} (adv_label) has no training row.")


def choose_rows(
    eligible: NDArray[np.int64], count: int, rule: Rule, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return ``count`` of the eligible positions, ascending.

    Raises:
        DataError: If there are fewer than ``count``.
    """
    if count > len(eligible):
        raise DataError(f"{count} poisons are more than the {len(eligible)} rows to choose from.")
    if rule == "first":
        return eligible[:count]
    if rule == "last":
        return eligible[len(eligible) - count :]
    return np.sort(rng.choice(eligible, size=count, replace=False))


def triggered_probes(
    test: ImageSet,
    adv_label: int,
    stamps: Iterable[tuple[str, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]]],
) -> tuple[Probe, ...]:
    """Return one probe per stamp: every test image of another class, triggered.

    Test images of ``adv_label`` are left out: a right answer is no attack success.
    """
    others = test.take(test.labels != adv_label)
    wanted = np.full(len(others), adv_label, np.int64)
    return tuple(
        Probe(name, others.with_images(stamp(others.images)), wanted) for name, stamp in stamps
    )
