"""From predictions to counts; pure functions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet, Probe
from harness.core.records import Movement, Outcome

Predict = Callable[[NDArray[np.uint8]], NDArray[np.int64]]


def count_per_class(predict: Predict, test: ImageSet) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return, per class, how many test images there are and how many are classified right."""
    right = predict(test.images) == test.labels
    rows = np.bincount(test.labels, minlength=test.num_classes)
    correct = np.bincount(test.labels[right], minlength=test.num_classes)
    return tuple(map(int, rows)), tuple(map(int, correct))


def count_probes(
    predict: Predict, probes: Iterable[Probe], *, attack: str, label: str, target: int | None
) -> list[Outcome]:
    """Return the counts of each probe: images given the adversary's label, and the true one."""
    outcomes = []
    for probe in probes:
        predicted = predict(probe.images.images)
        outcomes.append(
            Outcome(
                attack=attack,
                label=label,
                target=target,
                probe=probe.name,
                trials=len(predicted),
                successes=int(np.sum(predicted == probe.adv_labels)),
                correct=int(np.sum(predicted == probe.images.labels)),
            )
        )
    return outcomes


def movement(before: ImageSet, after: ImageSet, poison_ids: NDArray[np.int64]) -> Movement:
    """Return how far a defense moved a training set, for poisoned rows and for the others."""
    rows = before.positions(after.ids)
    same_shape = before.images[rows]
    changed = np.any(same_shape != after.images, axis=(1, 2, 3))
    squares = np.zeros(len(after))
    for start in range(0, len(after), 4096):  # bounds the memory of the float copies
        part = slice(start, start + 4096)
        diff = after.images[part].astype(np.float32) - same_shape[part]
        squares[part] = np.square(diff / 255).sum((1, 2, 3))
    distance = np.sqrt(squares)
    poisoned = np.isin(after.ids, poison_ids)

    def mean(mask: NDArray[np.bool_]) -> float | None:
        return float(distance[mask].mean()) if mask.any() else None

    return Movement(
        rows_in=len(before),
        rows_out=len(after),
        rows_changed=int(changed.sum()),
        clean_l2=mean(~poisoned),
        poison_l2=mean(poisoned),
        poison_kept=int(poisoned.sum()),
        poison_changed=int((poisoned & changed).sum()),
    )
