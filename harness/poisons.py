"""Crafted poisons: held to what their attack promised, and kept as their changed rows alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet, PoisonedSet, Probe
from harness.core.errors import DataError, NoEffect
from harness.core.protocols import Bounds

Arrays = Mapping[str, NDArray[Any]]


def changed_rows(clean: ImageSet, poisoned: ImageSet) -> NDArray[np.int64]:
    """Return the positions of the rows whose pixels an attack changed.

    Raises:
        DataError: If the attack added, removed or reordered rows.
    """
    if not np.array_equal(clean.ids, poisoned.ids):
        raise DataError("an attack must keep the rows and their order.")
    different = np.any(clean.images != poisoned.images, axis=(1, 2, 3))
    return np.flatnonzero(different).astype(np.int64)


def check_poison(clean: ImageSet, crafted: PoisonedSet, bounds: Bounds) -> None:
    """Hold an attack to what it declares: what is kept, trained on and reported relies on it.

    Raises:
        DataError: If a row that is no poison differs, or budget, bound or label rule are broken.
        NoEffect: If no row differs.
    """
    train = crafted.train
    rows = changed_rows(clean, train)
    relabelled = np.flatnonzero(train.labels != clean.labels)
    touched = np.union1d(rows, relabelled)
    if not len(touched):
        raise NoEffect("it changed no row.")
    strays = touched[~np.isin(train.ids[touched], crafted.poison_ids)]
    if len(strays):
        raise DataError(f"it changed {len(strays)} rows that are not in poison_ids.")
    if len(crafted.poison_ids) > bounds.rows:
        raise DataError(f"it made {len(crafted.poison_ids)} poisons; its budget is {bounds.rows}.")
    if bounds.keeps_labels and len(relabelled):
        raise DataError(f"it changed {len(relabelled)} labels, and says that it keeps them.")
    if bounds.eps_255 is not None and len(rows):
        moved = train.images[rows].astype(np.int16) - clean.images[rows]
        if np.abs(moved).max() > bounds.eps_255:
            raise DataError(
                f"it moved a byte by {np.abs(moved).max()}; its bound is {bounds.eps_255}."
            )


def pack(crafted: PoisonedSet) -> dict[str, NDArray[Any]]:
    """Return the poisoned rows and the probes as plain arrays."""
    rows = crafted.train.positions(crafted.poison_ids)
    arrays: dict[str, NDArray[Any]] = {
        "poison_ids": crafted.poison_ids,
        "images": crafted.train.images[rows],
        "labels": crafted.train.labels[rows],
        "goal": np.array(crafted.goal),
        "probe_names": np.array([p.name for p in crafted.probes], dtype=np.str_),
        "detail_names": np.array(list(crafted.details), dtype=np.str_),
        "detail_values": np.array(list(crafted.details.values()), dtype=np.float64),
    }
    if crafted.trigger is not None:
        arrays["trigger"] = crafted.trigger
    for index, probe in enumerate(crafted.probes):
        arrays[f"probe{index}_images"] = probe.images.images
        arrays[f"probe{index}_labels"] = probe.images.labels
        arrays[f"probe{index}_ids"] = probe.images.ids
        arrays[f"probe{index}_adv"] = probe.adv_labels
    return arrays


def unpack(arrays: Arrays, clean: ImageSet) -> PoisonedSet:
    """Return the poisoned set from what :func:`pack` gave, and the clean training set."""
    rows = clean.positions(arrays["poison_ids"])
    images, labels = clean.images.copy(), clean.labels.copy()
    images[rows], labels[rows] = arrays["images"], arrays["labels"]
    names, values = map(str, arrays["detail_names"]), map(float, arrays["detail_values"])
    return PoisonedSet(
        ImageSet(images, labels, clean.ids, clean.num_classes),
        arrays["poison_ids"],
        tuple(_probe(arrays, i, clean.num_classes) for i in range(len(arrays["probe_names"]))),
        str(arrays["goal"]),  # type: ignore[arg-type]
        dict(zip(names, values, strict=True)),
        arrays.get("trigger"),
    )


def _probe(arrays: Arrays, index: int, num_classes: int) -> Probe:
    images, labels, ids = (arrays[f"probe{index}_{part}"] for part in ("images", "labels", "ids"))
    return Probe(
        str(arrays["probe_names"][index]),
        ImageSet(images, labels, ids, num_classes),
        arrays[f"probe{index}_adv"],
    )
