"""Readers of plain arrays and pictures: Narcissus triggers, NTGA, APBench.

Sources: reds-lab/Narcissus, lionelmessi6410/ntga, lafeat/apbench.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.interop.foreign import (
    MOST_ROWS,
    Fact,
    Foreign,
    bytes_of_x01,
    check_images,
    check_labels,
    check_total,
    read_npy,
)
from harness.interop.inert import LARGEST_SIDE, Refused
from harness.interop.limits import Limits
from harness.interop.safe_pickle import one_message

LARGEST_TRIGGER_255 = 64
NTGA_EPS_255 = 8.0
_CHUNK = 1024
_LABEL_IN_NAME = re.compile(r"lab(\d{1,6})")


def trigger_of(values: NDArray[Any]) -> tuple[NDArray[np.float32], float]:
    """Return a trigger as float32 (C, H, W) in units of [0, 1], and its reach in grey levels.

    Args:
        values: Floats (1, C, H, W) or (C, H, W) in units of [-1, 1].

    Raises:
        Refused: If it is no such array, not finite, zero, or so large that the units are others.
    """
    delta = values[0] if values.ndim == 4 and len(values) == 1 else values
    if delta.dtype.kind != "f" or delta.ndim != 3:
        raise Refused(f"a trigger is floats (1, C, H, W); it holds {values.dtype} {values.shape}")
    check_images((1, *delta.shape), "triggers")
    reach = float(np.abs(delta).max()) * 127.5
    if not math.isfinite(reach) or reach == 0:
        raise Refused("the trigger is not finite, or zero")
    if reach > LARGEST_TRIGGER_255 + 0.5:
        raise Refused(
            f"the trigger reaches {reach:.4g} grey levels when read in units of [-1, 1]; up to "
            f"{LARGEST_TRIGGER_255} is plausible, so it is in other units"
        )
    return (delta / 2).astype(np.float32), reach


def read_trigger_file(path: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read a trigger of Narcissus: ``best_noise_lab3.npy``, ``resnet18_trigger.npy``."""
    values = read_npy(path, limits)
    with one_message(str(path)):
        delta, reach = trigger_of(np.asarray(values))
        facts: dict[str, Fact] = {
            "kind": "trigger",
            "attack": "narcissus",
            "goal": "triggered",
            "clean_label": True,
            # 16/255 as float32 reads as 16.0000002: no level more.
            "eps_255": float(math.ceil(reach - 0.01)),
        }
        named = _LABEL_IN_NAME.search(path.stem)
        if named:
            facts["adv_label"] = int(named[1])
        return Foreign({"delta": delta}, facts)


def read_ntga(path: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read ``x_train_….npy`` of NTGA with its one-hot labels, ``y_train_….npy``."""
    x = read_npy(path, limits)
    labels_path = companion or labels_beside(path)
    y = read_npy(labels_path, limits)
    with one_message(str(path)):
        if x.ndim != 4 or x.dtype.kind != "f":
            raise Refused(f"it holds {x.dtype} {x.shape}; floats (N, H, W, C) are expected")
        shape = (len(x), x.shape[3], *x.shape[1:3])
        check_images(shape, "images")
        check_total(len(x), x[0].size, limits)
        images = np.empty(shape, np.uint8)
        for start in range(0, len(x), _CHUNK):
            part = bytes_of_x01(np.asarray(x[start : start + _CHUNK]), "images")
            images[start : start + _CHUNK] = part.transpose(0, 3, 1, 2)
    with one_message(str(labels_path)):
        labels = _from_one_hot(np.asarray(y), len(images))
    return Foreign(
        {"images": images, "labels": labels},
        {"kind": "poisons", "clean_label": True, "attack": "ntga", "eps_255": NTGA_EPS_255},
    )


def labels_beside(path: Path) -> Path:
    """Return the labels' file: the ``y_`` file whose name the images' name goes on from."""
    stem = path.stem.removeprefix("x_")
    fitting = [p for p in path.parent.glob("y_*.npy") if stem.startswith(p.stem[2:])]
    with one_message(str(path)):
        if not fitting:
            raise Refused(f"it has no labels beside it, as y_{stem}.npy would be")
    return max(fitting, key=lambda p: len(p.stem))


def _from_one_hot(y: NDArray[Any], count: int) -> NDArray[np.int64]:
    if len(y) != count or y.ndim not in (1, 2):
        raise Refused(f"labels have the shape {y.shape}; there are {count} images")
    if y.ndim == 1 and y.dtype.kind in "iu":
        return check_labels(y.astype(np.int64), "labels")
    if y.ndim != 2 or not y.size or not np.all((y == 0) | (y == 1)) or not np.all(y.sum(1) == 1):
        raise Refused("labels are not one-hot")
    found: NDArray[np.int64] = y.argmax(1).astype(np.int64)
    return found


def picture_files(folder: Path) -> list[Path]:
    """Return the files ``<index>.png`` of a folder, or of its folder ``data``, by index."""
    within = folder / "data" if (folder / "data").is_dir() else folder
    files = [p for p in within.glob("*.png") if p.stem.isdecimal() and len(p.stem) < 10]
    return sorted(files, key=lambda p: int(p.stem))


def read_pictures(folder: Path, companion: Path | None, limits: Limits) -> Foreign:
    """Read a folder of APBench: one PNG per training row, named by the row's index."""
    files = picture_files(folder)
    with one_message(str(folder)):
        if not 1 <= len(files) <= MOST_ROWS:
            raise Refused(f"it has {len(files)} files named <index>.png")
        rows = np.array([int(path.stem) for path in files], np.int64)
        if len(np.unique(rows)) != len(rows):
            raise Refused("an index stands twice")
    first = _picture(files[0])
    with one_message(str(folder)):
        check_total(len(files), first.size, limits)
    images = np.empty((len(files), 3, *first.shape[:2]), np.uint8)
    for row, path in enumerate(files):
        pixels = _picture(path)
        if pixels.shape != first.shape:
            with one_message(str(path)):
                raise Refused(f"it is of shape {pixels.shape}; {files[0].name} is {first.shape}")
        images[row] = pixels.transpose(2, 0, 1)
    return Foreign({"images": images, "base_ids": rows}, {"kind": "poisons", "clean_label": True})


def _picture(path: Path) -> NDArray[np.uint8]:
    from PIL import Image

    with one_message(str(path)):
        try:
            with Image.open(path, formats=["PNG"]) as image:
                if max(image.size) > LARGEST_SIDE or image.mode not in ("RGB", "L"):
                    raise Refused(f"it is a {image.mode} picture of {image.size}; RGB is expected")
                return np.asarray(image.convert("RGB"))
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise Refused(f"it is no readable PNG: {str(error)[:100]!a}") from None
