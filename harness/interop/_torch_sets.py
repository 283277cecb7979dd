"""Readers of files of torch: Bullseye Polytope, its split, backdoor-toolbox, purified sets.

Sources: ucsb-seclab/BullseyePoison, vtu81/backdoor-toolbox, SunayBhat1/PureGen_PoisonDefense.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interop._array_sets import trigger_of
from harness.interop._pickled_sets import one_label
from harness.interop.foreign import (
    Fact,
    Foreign,
    array_of,
    bytes_of_x01,
    check_images,
    check_labels,
    check_total,
    denormalised,
    indices,
    integer,
    integers,
    list_of,
    pairs,
    read_value,
)
from harness.interop.inert import ForeignArray, ForeignTensor, Refused, kind_of
from harness.interop.limits import Limits
from harness.interop.safe_pickle import one_message

# Bullseye Polytope's own statistics; PureGen's classifiers and EPIC use another std.
BP_MEAN = (0.4914, 0.4822, 0.4465)
BP_STD = (0.2023, 0.1994, 0.2010)
BP_EPS_255 = 25.5  # 0.1 in [0, 1]
BP_TRUE_LABEL = 6
BP_PER_CLASS = 50  # of `others`, for the victim; the targets are the images after these
SPLIT_PARTS = ("clean_train", "others")


def read_bullseye(path: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read ``poison_00799.pth``, or the last one of a folder; base rows need the split file.

    The file gives positions in the split's part ``others``. With the split as companion, the clean
    images at these positions are returned, and the target that the folder's number stands for.
    """
    path = last_poison(path)
    value = read_value(path, limits)
    with one_message(str(path)):
        if type(value) is not dict or not {"poison", "idx"} <= set(value):
            raise Refused("it is no dictionary with poison and idx")
        rows = [list_of(row, "a poison", 2) for row in list_of(value["poison"], "poison")]
        tensors = [array_of(row[0], "a poison") for row in rows]
        labels = np.array([integer(row[1], "a label") for row in rows], np.int64)
        shape = tensors[0].shape
        if any(t.shape != shape or t.dtype.kind != "f" for t in tensors):
            raise Refused("its poisons differ in shape, or are no floats")
        check_images((len(tensors), *shape), "poisons")
        check_total(len(tensors), tensors[0].size, limits)
        x01 = denormalised(np.stack(tensors), BP_MEAN, BP_STD)
        arrays: dict[str, NDArray[Any]] = {
            "images": bytes_of_x01(x01, "poisons, de-normalised,"),
            "labels": check_labels(labels, "labels"),
        }
        positions = indices(value["idx"], "idx", len(tensors))
        facts: dict[str, Fact] = {
            "kind": "poisons",
            "adv_label": one_label(labels, "poisons"),
            "clean_label": True,
            "attack": "bullseye_polytope",
            "goal": "targeted",
            "eps_255": BP_EPS_255,
        }
    if companion is not None:
        arrays |= _from_split(companion, positions, path.parent.name, limits)
    return Foreign(arrays, facts)


def last_poison(path: Path) -> Path:
    """Return the file itself, or a folder's file of the highest iteration."""
    return max(path.glob("poison_*.pth"), key=lambda p: p.name) if path.is_dir() else path


def _from_split(
    split: Path, positions: NDArray[np.int64], number: str, limits: Limits
) -> dict[str, NDArray[Any]]:
    found = read_split(split, None, limits).arrays
    images, labels = found["others_images"], found["others_labels"]
    with one_message(str(split)):
        if positions.max() >= len(images):
            raise Refused(f"idx reaches {positions.max()}; its part others has {len(images)}")
        arrays: dict[str, NDArray[Any]] = {"base_images": images[positions]}
        candidates = np.flatnonzero(labels == BP_TRUE_LABEL)[BP_PER_CLASS:]
        if number.isdecimal() and len(number) < 6:
            if int(number) >= len(candidates):
                raise Refused(f"target {number} is none of its {len(candidates)}")
            row = candidates[int(number) : int(number) + 1]
            arrays |= {"target_images": images[row], "target_labels": labels[row]}
        return arrays


def read_split(path: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read ``CIFAR10_TRAIN_Split.pth``: clean images in the parts clean_train and others."""
    value = read_value(path, limits)
    with one_message(str(path)):
        if type(value) is not dict or not set(SPLIT_PARTS) <= set(value):
            raise Refused(f"it is no dictionary with {' and '.join(SPLIT_PARTS)}")
        arrays: dict[str, NDArray[Any]] = {}
        for part in SPLIT_PARTS:
            images, labels = pairs(value[part], part, limits)
            arrays |= {f"{part}_images": images, f"{part}_labels": labels}
        return Foreign(arrays, {"kind": "split"})


def read_toolbox(folder: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read a training set of backdoor-toolbox (``imgs``, ``labels``, ``poison_indices``)."""
    values = {name: read_value(folder / name, limits) for name in TOOLBOX_FILES}
    with one_message(str(folder)):
        images = array_of(values["imgs"], "imgs")
        labels = check_labels(integers(values["labels"], "labels"), "labels")
        rows = integers(values["poison_indices"], "poison_indices")
        rows = indices(values["poison_indices"], "poison_indices", len(rows))
        check_images(images.shape, "imgs")
        if len(labels) != len(images):
            raise Refused(f"there are {len(images)} images and {len(labels)} labels")
        if not len(rows) or rows.max() >= len(images):
            raise Refused(f"poison_indices do not name rows of its {len(images)} images")
        check_total(len(rows), images[0].size, limits)
        arrays: dict[str, NDArray[Any]] = {
            "images": bytes_of_x01(images[rows], "imgs"),
            "labels": labels[rows],
            "base_ids": rows,
        }
        facts: dict[str, Fact] = {"kind": "poisons", "clean_label": False}
        if labels[rows].min() == labels[rows].max():
            facts["adv_label"] = int(labels[rows][0])
        return Foreign(arrays, facts)


TOOLBOX_FILES = ("imgs", "labels", "poison_indices")


def read_purified(path: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read what PureGen writes after purification.

    ``<key>.pt`` is a whole training set in its own order, ``<i>.pth`` the poisons of one target
    with their indices and either the adversary's label or the trigger.
    """
    value = read_value(path, limits)
    with one_message(str(path)):
        if type(value) is list:
            images, labels = pairs(value, "its images", limits)
            rows = np.arange(len(images))
            return Foreign(
                {"images": images, "labels": labels, "base_ids": rows},
                {"kind": "poisons", "clean_label": True, "purified": True},
            )
        if type(value) is not tuple or len(value) != 3:
            raise Refused(f"it holds a {kind_of(value)}; a list or a tuple of 3 parts is known")
        images, labels = pairs(value[0], "poisons", limits)
        arrays: dict[str, NDArray[Any]] = {
            "images": images,
            "labels": labels,
            "base_ids": indices(value[1], "indices", len(images)),
        }
        facts: dict[str, Fact] = {"kind": "poisons", "clean_label": True, "purified": True}
        facts["adv_label"] = one_label(labels, "poisons")
        third = value[2]
        if isinstance(third, ForeignArray | ForeignTensor) and third.array().size > 1:
            arrays["delta"], _ = trigger_of(third.array())
            facts["goal"] = "triggered"
        elif integer(third, "the adversary's label") != facts["adv_label"]:
            raise Refused("the adversary's label is not that of the poisons")
        return Foreign(arrays, facts)
