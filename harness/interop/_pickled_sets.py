"""Readers of pickled sets: poisoning-benchmark and its relatives, setups, MetaPoison.

Sources: aks2203/poisoning-benchmark, JonasGeiping/poisoning-gradient-matching, YuYang0901/EPIC,
the published sets of PureGen, and MetaPoison's packages.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interop.foreign import (
    Fact,
    Foreign,
    array_of,
    bytes_of_x01,
    check_images,
    check_labels,
    check_total,
    indices,
    integer,
    integers,
    list_of,
    pairs,
    read_value,
    stacked,
)
from harness.interop.inert import ForeignArray, ForeignTensor, Refused, kind_of
from harness.interop.limits import Limits
from harness.interop.safe_pickle import one_message

SETUP_KEYS = ("target class", "target index", "base class", "base indices")
_CHUNK = 1024  # rows that are converted at a time: floats take four to eight times the bytes


def one_label(labels: NDArray[np.int64], what: str) -> int:
    """Return the label that all poisons share."""
    if labels.min() != labels.max():
        raise Refused(f"{what} have several labels; they share the adversary's")
    return int(labels[0])


def read_toxic(folder: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read ``poisons.pickle`` and ``base_indices.pickle``, with the target or source images."""
    value = read_value(folder / "poisons.pickle", limits)
    bases = read_value(folder / "base_indices.pickle", limits)
    with one_message(str(folder)):
        images, labels = pairs(value, "poisons", limits)
        arrays: dict[str, NDArray[Any]] = {
            "images": images,
            "labels": labels,
            "base_ids": indices(bases, "base indices", len(images)),
        }
        adv_label = one_label(labels, "poisons")
    arrays |= _targets(folder, limits)
    arrays |= _norms(folder, len(images), limits)
    facts: dict[str, Fact] = {
        "kind": "poisons",
        "goal": "targeted" if (folder / "target.pickle").exists() else "triggered",
        "adv_label": adv_label,
        "clean_label": True,
    }
    return Foreign(arrays, facts)


def _targets(folder: Path, limits: Limits) -> dict[str, NDArray[Any]]:
    target, source = folder / "target.pickle", folder / "source.pickle"
    if target.exists():
        value = read_value(target, limits)
        with one_message(str(target)):
            return _target(value, limits)
    if source.exists():
        value = read_value(source, limits)
        with one_message(str(source)):
            images, labels = pairs(value, "source images", limits)
        return {"target_images": images, "target_labels": labels}
    with one_message(str(folder)):
        raise Refused("it has neither target.pickle nor source.pickle")


def _target(value: Any, limits: Limits) -> dict[str, NDArray[Any]]:
    parts = list_of(value, "the target", 2)
    if len(parts) not in (2, 4):
        raise Refused(f"the target has {len(parts)} parts; 2 or, with a patch, 4 are known")
    labels = np.array([integer(parts[1], "the target's label")], np.int64)
    arrays: dict[str, NDArray[Any]] = {
        "target_images": stacked([parts[0]], "the target", limits),
        "target_labels": check_labels(labels, "the target's label"),
    }
    if len(parts) == 4:
        patch = array_of(parts[2], "the patch")
        xy = integers(parts[3], "the patch's position")
        if patch.ndim != 3 or len(xy) != 2:
            raise Refused(f"the patch is of shape {patch.shape}, at {len(xy)} coordinates")
        arrays |= {"patch": bytes_of_x01(patch, "the patch's values"), "xy": xy}
    return arrays


def _norms(folder: Path, count: int, limits: Limits) -> dict[str, NDArray[Any]]:
    """Read the largest change of each poison, which some attacks note: for information."""
    path = folder / "perturbation_norms.pickle"
    if not path.exists():
        return {}
    value = read_value(path, limits)
    with one_message(str(path)):
        norms = list_of(value, "norms")
        if len(norms) != count or any(type(norm) not in (int, float) for norm in norms):
            raise Refused(f"norms are no {count} numbers")
        found = np.array(norms, np.float64)
        if not np.isfinite(found).all():
            raise Refused("norms are not finite")
        return {"norms": found}


def read_setups(path: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read a list of setups of the poisoning benchmark: targets and base images, no pixels."""
    value = read_value(path, limits)
    with one_message(str(path)):
        columns: dict[str, list[Any]] = {key: [] for key in SETUP_KEYS}
        for setup in list_of(value, "setups"):
            if type(setup) is not dict or set(setup) != set(SETUP_KEYS):
                raise Refused(f"a setup is no dictionary with {', '.join(SETUP_KEYS)}")
            for key in SETUP_KEYS[:3]:
                columns[key].append(integer(setup[key], key))
            bases = integers(setup["base indices"], "base indices")
            columns["base indices"].append(indices(setup["base indices"], "bases", len(bases)))
        bases_of = columns.pop("base indices")
        numbers = {key.replace(" ", "_"): np.array(v, np.int64) for key, v in columns.items()}
        if min(int(column.min()) for column in numbers.values()) < 0:
            raise Refused("a class or an index is negative")
        counts = np.array([len(bases) for bases in bases_of], np.int64)
        return Foreign(
            {**numbers, "base_indices": np.concatenate(bases_of), "base_counts": counts},
            {"kind": "setups"},
        )


def read_metapoison(path: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read a package of MetaPoison: a whole training set with some images perturbed."""
    value = read_value(path, limits)
    with one_message(str(path)):
        if type(value) is not dict:
            raise Refused(f"it holds a {kind_of(value)} and no dictionary")
        needed = ("xtrain", "ytrain", "xtarget", "ytarget", "ytargetadv")
        lacking = [key for key in needed if key not in value]
        if lacking:
            raise Refused(f"it lacks {', '.join(lacking)}")
        images = _levels(value["xtrain"], "xtrain", limits)
        labels = check_labels(integers(value["ytrain"], "ytrain"), "ytrain")
        targets = _levels(value["xtarget"], "xtarget", limits)
        true = _each(value["ytarget"], "ytarget", len(targets))
        wanted = _each(value["ytargetadv"], "ytargetadv", len(targets))
        if len(images) != len(labels):
            raise Refused(f"xtrain has {len(images)} images and ytrain {len(labels)} labels")
        facts: dict[str, Fact] = {
            "kind": "trainset",
            "goal": "targeted",
            "adv_label": one_label(wanted, "targets"),
            "clean_label": True,
            "attack": "metapoison",
        }
        arrays: dict[str, NDArray[Any]] = {
            "images": images,
            "labels": labels,
            "target_images": targets,
            "target_labels": true,
        }
        return Foreign(arrays, facts)


def _each(value: Any, what: str, count: int) -> NDArray[np.int64]:
    """Return one label per target from a list, an array or a single number."""
    single = type(value) is int or (
        isinstance(value, ForeignArray | ForeignTensor) and not value.array().ndim
    )
    labels = np.array([integer(value, what)]) if single else integers(value, what)
    if len(labels) != count:
        raise Refused(f"{what} has {len(labels)} labels; there are {count} targets")
    return check_labels(labels.astype(np.int64), what)


def _levels(value: Any, what: str, limits: Limits) -> NDArray[np.uint8]:
    """Return uint8 (N, C, H, W) from numbers 0..255 in (N, H, W, C), or one (H, W, C)."""
    array = array_of(value, what)
    array = array[None] if array.ndim == 3 else array
    shape = tuple(array.shape[i] for i in (0, 3, 1, 2)) if array.ndim == 4 else array.shape
    check_images(shape, what)
    check_total(len(array), array[0].size, limits)
    images = np.empty(shape, np.uint8)
    for start in range(0, len(array), _CHUNK):
        part = array[start : start + _CHUNK]
        if part.dtype.kind == "f" and not np.isfinite(part).all():
            raise Refused(f"{what} is not finite")
        if part.min() < 0 or part.max() > 255:
            raise Refused(f"{what} leaves 0..255")
        levels = np.floor(part + 0.5) if part.dtype.kind == "f" else part
        images[start : start + _CHUNK] = levels.transpose(0, 3, 1, 2)
    return images
