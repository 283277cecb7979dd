"""Writers of foreign files as their authors' tools write them, honest and hostile."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from harness.core.data import Dataset
from harness.datasets.shapes import Shapes
from harness.interop.poison_set import Delta, Meta, PoisonSet

ADV, TRUE = 1, 4
BP_MEAN = torch.tensor([0.4914, 0.4822, 0.4465]).reshape(3, 1, 1)
BP_STD = torch.tensor([0.2023, 0.1994, 0.2010]).reshape(3, 1, 1)


@cache
def shapes() -> Dataset:
    return Shapes(train=300, test=100).load()


def pil(image: np.ndarray) -> Image.Image:
    return Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))


def pil_pairs(images: np.ndarray, labels: Any) -> list[tuple[Image.Image, int]]:
    return [(pil(image), int(label)) for image, label in zip(images, labels, strict=True)]


def checkers(levels: int = 8, side: int = 32) -> np.ndarray:
    """A trigger in units of [0, 1]."""
    index = np.arange(side)
    signs = np.where((index[:, None] + index[None]) % 2, 1, -1)
    return np.broadcast_to(signs * levels / 255, (3, side, side)).astype(np.float32)


def perturbed(data: Dataset, count: int = 6, levels: int = 8) -> tuple[np.ndarray, np.ndarray]:
    """Return poisons of class ADV and their rows."""
    rows = np.flatnonzero(data.train.labels == ADV)[:count]
    signs = np.random.default_rng(0).choice((-levels, levels), (count, 3, 32, 32))
    images = np.clip(data.train.images[rows].astype(int) + signs, 0, 255).astype(np.uint8)
    return images, rows


@cache
def example_set() -> PoisonSet:
    """What lies in ``attacks/_published_example``: a trigger on six rows of ``shapes``."""
    data = shapes()
    rows = np.flatnonzero(data.train.labels == ADV)[:6]
    delta = checkers()
    levels = np.rint(255 * delta).astype(int)
    images = np.clip(data.train.images[rows].astype(int) + levels, 0, 255).astype(np.uint8)
    meta = Meta(
        goal="triggered", adv_label=ADV, attack="checkers", dataset="shapes", eps_255=8.0,
        notes={"made_by": "tests/_foreign.py"},
    )  # fmt: skip
    return PoisonSet(
        images, data.train.labels[rows], data.train.ids[rows], meta, None, Delta(delta)
    )


# Honest files


def dump(path: Path, value: Any, protocol: int = 4) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(value, protocol))
    return path


def write_toxic(
    folder: Path, images: np.ndarray, rows: Any, target: Any, protocol: int = 4, **more: Any
) -> Path:
    dump(folder / "poisons.pickle", pil_pairs(images, [ADV] * len(images)), protocol)
    dump(folder / "base_indices.pickle", rows, protocol)
    files = {"target": target, **more}
    for name, value in files.items():
        if value is not None:
            dump(folder / f"{name}.pickle", value, protocol)
    return folder


def write_bullseye(path: Path, images: np.ndarray, rows: list[int], legacy: bool = False) -> Path:
    x = torch.from_numpy(images).float() / 255
    z = (x - BP_MEAN) / BP_STD
    value = {
        "poison": [(image.clone(), ADV) for image in z],
        "idx": rows,
        "coeffs_time": 3,
        "poisons_time": 4,
        "target_loss": torch.tensor(0.5, requires_grad=True),
        "total_loss": torch.tensor(0.25),
        "coeff_list": [torch.full((len(rows), 1), 0.2)],
        "coeff_list_in_victim": [[torch.full((len(rows), 1), 0.2)]],
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(value, path, _use_new_zipfile_serialization=not legacy)
    return path


def write_split(path: Path, data: Dataset, legacy: bool = False) -> Path:
    """Half of the rows as clean_train, half as others, in an order of their own."""
    order = np.random.default_rng(1).permutation(len(data.train))
    parts = {}
    for part, rows in zip(("clean_train", "others"), np.array_split(order, 2), strict=True):
        parts[part] = pil_pairs(data.train.images[rows], data.train.labels[rows])
    torch.save(parts, path, _use_new_zipfile_serialization=not legacy)
    return path


# Hostile ones


class Calls:
    """An object whose pickle calls something when it is loaded."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.function, self.arguments = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.function, self.arguments


def op_text(text: str) -> bytes:
    raw = text.encode()
    return b"X" + struct.pack("<I", len(raw)) + raw


def op_bytes(raw: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(raw)) + raw


def op_name(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def torch_zip(
    pickled: bytes, members: dict[str, bytes] | None = None, compress: int = zipfile.ZIP_STORED
) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", compress) as archive:
        archive.writestr("archive/data.pkl", pickled)
        archive.writestr("archive/version", b"3\n")
        for name, content in (members or {}).items():
            archive.writestr(name, content)
    return stream.getvalue()


def torch_bytes(value: Any, legacy: bool = False) -> bytes:
    stream = io.BytesIO()
    torch.save(value, stream, _use_new_zipfile_serialization=not legacy)
    return stream.getvalue()
