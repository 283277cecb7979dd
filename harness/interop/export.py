"""Our poisons in the formats that other tools read; to write a pickle is safe, to read one is not.

=============  ===================================================================================
format         files
=============  ===================================================================================
``toxic``      poisons.pickle, base_indices.pickle, target.pickle (poisoning-benchmark and kin)
``bullseye``   poison_00000.pth: normalised float tensors, as BullseyePoison and PureGen read them
``numpy``      poisons.npy uint8 (P, H, W, C), labels.npy, base_indices.npy
``narcissus``  best_noise_lab<c>.npy: the trigger alone, float32 (1, C, H, W) in [-1, 1]
``png``        data/<base id>.png (APBench)
=============  ===================================================================================
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.core.data import ImageSet, PoisonedSet
from harness.core.errors import DataError, nearest
from harness.core.files import write_aside
from harness.core.protocols import Bounds
from harness.interop._torch_sets import BP_MEAN, BP_STD
from harness.interop.poison_set import UNKNOWN, Delta, Meta, Patch, PoisonSet, Target

PICKLE_PROTOCOL = 4  # what Python 3.8 on writes, and from 3.4 on reads


def poison_set_of(
    crafted: PoisonedSet, bounds: Bounds, attack: str, dataset: str = ""
) -> PoisonSet:
    """Return what an attack of ours crafted as a set that can be written and exported.

    Args:
        crafted: Poisoned training set with its probes.
        bounds: What the attack promises.
        attack: Its name.
        dataset: Name of the dataset.
    """
    rows: ImageSet = crafted.train.take(crafted.train.positions(crafted.poison_ids))
    probe = crafted.probes[0] if crafted.probes else None
    if probe is not None and len(set(probe.adv_labels.tolist())) > 1:
        probe = None  # one pattern per class: the rows can be kept, their judgement cannot
    trigger = Delta(crafted.trigger) if probe and crafted.trigger is not None else None
    # Without an additive trigger the probe's images, which bear it, are what is left of it.
    target = Target(probe.images.images, probe.images.labels) if probe and not trigger else None
    meta = Meta(
        goal=crafted.goal if probe else "availability",
        adv_label=int(probe.adv_labels[0]) if probe else None,
        attack=attack,
        dataset=dataset,
        eps_255=None if bounds.eps_255 is None else float(bounds.eps_255),
        clean_label=bounds.keeps_labels,
    )
    return PoisonSet(rows.images, rows.labels, rows.ids, meta, target, trigger)


def export(poisons: PoisonSet, out: Path, form: str) -> list[Path]:
    """Write a set in another tool's format.

    Returns:
        The files.

    Raises:
        DataError: If the format is unknown, or has no place for what the set holds.
    """
    if form not in WRITERS:
        raise DataError(
            f"unknown export format {form!r}.{nearest(form, WRITERS)} "
            f"Allowed: {', '.join(WRITERS)}."
        )
    if np.any(poisons.base_ids == UNKNOWN) and form != "narcissus":
        raise DataError("the base rows of some poisons are not known; import with the dataset.")
    if form in WITHOUT_LABELS and not poisons.meta.clean_label:
        others = ", ".join(name for name in WRITERS if name not in WITHOUT_LABELS)
        raise DataError(
            f"format {form!r} holds no labels, and these poisons have others than their bases; "
            f"formats with labels are {others}."
        )
    written = []
    for name, content in WRITERS[form](poisons).items():
        path = out / name
        write_aside(path, lambda aside, content=content: aside.write_bytes(content))  # type: ignore[misc]
        written.append(path)
    return written


def _pil(image: NDArray[np.uint8]) -> Any:
    from PIL import Image

    pixels = image.transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(pixels if len(image) == 3 else pixels[..., 0]))


def _pairs(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> list[tuple[Any, int]]:
    return [(_pil(image), int(label)) for image, label in zip(images, labels, strict=True)]


def _toxic(poisons: PoisonSet) -> dict[str, bytes]:
    values: dict[str, Any] = {
        "poisons.pickle": _pairs(poisons.images, poisons.labels),
        "base_indices.pickle": poisons.base_ids.tolist(),
    }
    target, trigger = poisons.target, poisons.trigger
    if target is None or isinstance(trigger, Delta):
        raise DataError(
            "format 'toxic' holds target images, with a patch or without; this set has "
            f"{'an additive trigger' if isinstance(trigger, Delta) else 'no target'}."
        )
    if len(target.images) > 1:
        images = target.images if trigger is None else trigger.paste(target.images)
        values["source.pickle"] = _pairs(images, target.true_labels)
    else:
        ((image, label),) = _pairs(target.images, target.true_labels)
        patch = _patch(trigger) if isinstance(trigger, Patch) else ()
        values["target.pickle"] = (image, label, *patch)
    return {name: pickle.dumps(value, PICKLE_PROTOCOL) for name, value in values.items()}


def _patch(trigger: Patch) -> tuple[NDArray[np.float32], list[int]]:
    return (trigger.pixels / 255).astype(np.float32), list(trigger.xy)


def _bullseye(poisons: PoisonSet) -> dict[str, bytes]:
    import torch

    if poisons.images.shape[1] != 3:
        raise DataError("format 'bullseye' normalises 3 channels; these images have 1.")
    mean, std = (np.reshape(values, (3, 1, 1)) for values in (BP_MEAN, BP_STD))
    z = torch.from_numpy(((poisons.images / 255 - mean) / std).astype(np.float32))
    value = {
        "poison": [(image.clone(), int(y)) for image, y in zip(z, poisons.labels, strict=True)],
        "idx": poisons.base_ids.tolist(),
    }
    stream = io.BytesIO()
    torch.save(value, stream)
    return {"poison_00000.pth": stream.getvalue()}


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    np.save(stream, np.ascontiguousarray(array), allow_pickle=False)
    return stream.getvalue()


def _numpy(poisons: PoisonSet) -> dict[str, bytes]:
    return {
        "poisons.npy": _npy(poisons.images.transpose(0, 2, 3, 1)),
        "labels.npy": _npy(poisons.labels),
        "base_indices.npy": _npy(poisons.base_ids),
    }


def _narcissus(poisons: PoisonSet) -> dict[str, bytes]:
    if not isinstance(poisons.trigger, Delta):
        raise DataError("format 'narcissus' holds an additive trigger; this set has none.")
    pm1 = 2 * poisons.trigger.values[None]
    return {f"best_noise_lab{poisons.meta.adv_label}.npy": _npy(pm1)}


def _png(poisons: PoisonSet) -> dict[str, bytes]:
    found = {}
    for id_, image in zip(poisons.base_ids, poisons.images, strict=True):
        stream = io.BytesIO()
        _pil(image).save(stream, "PNG")
        found[f"data/{id_}.png"] = stream.getvalue()
    return found


WRITERS: dict[str, Callable[[PoisonSet], dict[str, bytes]]] = {
    "toxic": _toxic,
    "bullseye": _bullseye,
    "numpy": _numpy,
    "narcissus": _narcissus,
    "png": _png,
}
# Whoever reads these takes the labels of the rows: a dirty-label set would become another attack.
WITHOUT_LABELS = ("narcissus", "png")
