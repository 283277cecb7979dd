"""Weights from files that others wrote, read so that no file can run code.

Read are safetensors, ``.npz`` and what torch saves: named tensors alone, or below ``net``,
``state_dict`` or ``model``, beside which a training may have noted its epoch or optimizer.
"""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from harness.core.errors import DataError
from harness.core.files import read_arrays

WRAPPERS = ("net", "state_dict", "model")


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the named tensors of a file; its suffix tells its kind, torch's is none of the others.

    Raises:
        DataError: If the file is missing, of another kind, or a value in it is not finite.
    """
    if path.suffix == ".safetensors":
        tensors = read_tensors(path)[0]
    elif path.suffix == ".npz":
        _check_there(path)
        tensors = {name: torch.from_numpy(array) for name, array in read_arrays(path).items()}
    else:
        tensors = _state_dict(path)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise DataError(f"weights {str(path)!r}: {name!r} holds values that are not finite.")
    return tensors


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a safetensors file.

    Raises:
        DataError: If the file is missing or no safetensors file.
    """
    _check_there(path)
    try:
        with safe_open(path, framework="pt") as handle:
            names = handle.keys()
            return {name: handle.get_tensor(name) for name in names}, handle.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise DataError(f"{str(path)!r} is no safetensors file: {error}") from error


def weights_in(folder: Path, *names: str) -> Path:
    """Return the first of some files that a folder has, and the first name if it has none."""
    return next((folder / n for n in names if (folder / n).is_file()), folder / names[0])


def _check_there(path: Path) -> None:
    if not path.is_file():
        raise DataError(f"weights {str(path)!r} do not exist.")


def _state_dict(path: Path) -> dict[str, Tensor]:
    _check_there(path)
    try:
        read = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError) as error:
        first = str(error).strip().partition("\n")[0]
        raise DataError(f"weights {str(path)!r} cannot be read as tensors alone: {first}") from None
    for key in WRAPPERS:
        if isinstance(read, Mapping) and isinstance(read.get(key), Mapping):
            read = read[key]
    tensors = (
        {str(name): tensor for name, tensor in read.items() if isinstance(tensor, Tensor)}
        if isinstance(read, Mapping)
        else {}
    )
    if not tensors:
        raise DataError(f"weights {str(path)!r} hold {type(read).__name__}, no named tensors.")
    return tensors
