"""Checkpoints of generators: safetensors and JSON, so that loading one can run no code.

A finished energy network is a folder with ``model.safetensors`` and ``config.json``, the layout of
the published checkpoints (older exports have ``pytorch_model.bin``), or one file of weights.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from generative.ebm import EBM, EBMConfig
from generative.weight_files import read_tensors, read_weights, weights_in
from harness.core.device import channels_last
from harness.core.errors import DataError
from harness.core.files import write_aside, write_text

WEIGHTS, OLDER_WEIGHTS, CONFIG = "model.safetensors", "pytorch_model.bin", "config.json"


def _on_cpu(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def save_training(
    path: Path, tensors: Mapping[str, Tensor], identity: Mapping[str, Any], done: int
) -> None:
    """Save the state of a training after ``done`` updates, atomically."""
    metadata = {"identity": json.dumps(identity, sort_keys=True), "done": str(done)}
    write_aside(path, lambda aside: save_file(_on_cpu(tensors), aside, metadata))


def load_training(path: Path, identity: Mapping[str, Any]) -> tuple[dict[str, Tensor], int]:
    """Load the state of a training.

    Raises:
        DataError: If it belongs to another configuration; the fields that differ are named.
    """
    tensors, metadata = read_tensors(path)
    saved = json.loads(metadata.get("identity", "{}"))
    wanted = json.loads(json.dumps(identity))
    if saved != wanted:
        fields = sorted(k for k in {*saved, *wanted} if saved.get(k) != wanted.get(k))
        raise DataError(
            f"{str(path)!r} is from a training with another {' and '.join(fields)}; "
            "give another output folder, or the same settings to go on."
        )
    return tensors, int(metadata["done"])


def save_ebm(folder: Path, model: EBM, recipe: Mapping[str, Any]) -> None:
    """Save a finished energy network with what it was trained on."""
    config = {"nf": model.config.nf, "patch_size": model.config.patch_size, "trained": recipe}
    write_aside(folder / WEIGHTS, lambda aside: save_file(_on_cpu(model.state_dict()), aside))
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    write_text(folder / CONFIG, text)


def load_ebm(path: Path, device: torch.device | str = "cpu") -> EBM:
    """Load an energy network from a folder, or from one file of weights.

    Args:
        path: Folder with ``model.safetensors`` (or ``pytorch_model.bin``), or the weights file
            itself, as safetensors or a state dict of torch (``.pt``), as PureGen's training writes
            it. Its network has the shape that ``config.json`` beside it says, or that it shows.
        device: Where the network shall be.

    Raises:
        DataError: If a file is missing or corrupt, a value is not finite, or a tensor has another
            name or shape.
    """
    weights = weights_in(path, WEIGHTS, OLDER_WEIGHTS) if path.is_dir() else path
    tensors = read_weights(weights)
    model = EBM(_read_config(weights.with_name(CONFIG), tensors))
    wanted = {name: tuple(t.shape) for name, t in model.state_dict().items()}
    given = {name: tuple(t.shape) for name, t in tensors.items()}
    if wanted != given:
        name = min(n for n in {*wanted, *given} if wanted.get(n) != given.get(n))
        raise DataError(
            f"{str(weights)!r} does not fit the network of nf={model.config.nf}, "
            f"patch_size={model.config.patch_size}: tensor {name!r} has shape "
            f"{given.get(name, 'none')}, expected {wanted.get(name, 'none')}."
        )
    model.load_state_dict(tensors)
    return channels_last(model.to(device)).eval()


def _read_config(path: Path, tensors: Mapping[str, Tensor]) -> EBMConfig:
    """Return the shape in a configuration; without one, that which the first weights have."""
    if not path.is_file():
        first = tensors.get("block1.c1.weight")
        if first is None or first.ndim != 4:
            return EBMConfig()
        return EBMConfig(nf=first.shape[0], patch_size=math.isqrt(first.shape[1] // 3) or 1)
    try:
        raw = json.loads(path.read_text())
        return EBMConfig(nf=int(raw.get("nf", 128)), patch_size=int(raw.get("patch_size", 1)))
    except (ValueError, TypeError, AttributeError) as error:
        raise DataError(f"{str(path)!r} is no valid configuration: {error}") from error
