"""Weights of classifiers from files, read so that no file can run code.

Read are ``.npz`` and ``.safetensors`` with this project's parameter names, and torch files with
weights alone or below ``net``, ``state_dict`` or ``model``, as the repositories of Bullseye
Polytope (``.t7``) and of the poisoning benchmark of Schwarzschild et al. publish them: ``module.``
before a name is dropped, ``linear`` is the head, ``shortcut`` a residual block's projection.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from generative.weight_files import read_weights
from harness.core.errors import DataError
from harness.core.protocols import Classifier

RENAMED = (("module.", ""), ("linear.", "head."), ("fc.", "head."), (".shortcut.", ".downsample."))


def load_weights(
    classifier: Classifier,
    path: Path,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """Build a classifier with the weights of a file; its classes are those of the file's head.

    Args:
        classifier: The architecture.
        path: See above.
        mean, std: Input statistics, one value per channel in units of [0, 1], that the weights were
            trained with; those in the file, else the classifier's own, unless given.

    Raises:
        DataError: If the file cannot be read, or its parameters are not those of the architecture;
            the first that differs is named.
    """
    tensors = _named(read_weights(path))
    if "head.weight" not in tensors or tensors["head.weight"].ndim != 2:
        raise DataError(f"{str(path)!r} has no linear head ('head.weight' or 'linear.weight').")
    model = classifier.build(len(tensors["head.weight"]), (3, 32, 32))
    wanted = model.state_dict()
    if not any(name.startswith("body.") for name in tensors):
        tensors = {n if n.startswith("head.") else f"body.{n}": t for n, t in tensors.items()}
    for name, given in (("mean", mean), ("std", std)):
        if given is not None:
            tensors[name] = torch.tensor(given, dtype=torch.float32).view(1, -1, 1, 1)
        elif name in wanted:
            tensors.setdefault(name, wanted[name])
    _check(tensors, wanted, path)
    model.load_state_dict(tensors)
    return model


def _named(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    found = {}
    for name, tensor in tensors.items():
        for old, new in RENAMED:
            at_start = name.startswith(old) if not old.startswith(".") else old in name
            name = name.replace(old, new, 1) if at_start else name
        found[name] = tensor
    return found


def _check(tensors: Mapping[str, Tensor], wanted: Mapping[str, Tensor], path: Path) -> None:
    for name, tensor in wanted.items():
        if name not in tensors:
            if name.endswith("num_batches_tracked"):
                continue
            raise DataError(f"weights {str(path)!r} lack {name!r} of this architecture.")
        if tensors[name].shape != tensor.shape:
            raise DataError(
                f"weights {str(path)!r}: {name} is {tuple(tensors[name].shape)}, "
                f"this architecture has {tuple(tensor.shape)}."
            )
    extra = [name for name in tensors if name not in wanted]
    if extra:
        raise DataError(f"weights {str(path)!r} have {extra[0]!r}, which this architecture lacks.")
