"""A classifier's training kept in one file, from which it goes on."""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from generative.checkpoints import load_training, save_training
from harness.core.errors import DataError

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TrainingFile:
    """A training after some epoch: weights, statistics, the optimiser's averages, curves.

    It is a :class:`harness.training.Checkpoint`.

    Attributes:
        path: The file; all workers of a training see it.
        identity: What the training is of.
        writes: Whether this process writes it; the first of several workers does.
        curves: One list per name; kept too, and put back into these lists.
        every_seconds: It is written at the end of an epoch, this long after it was last, or after
            the training began.
        strict: Whether a file that is damaged, or of another training, is an error; else the
            training begins anew.
    """

    path: Path
    identity: Mapping[str, Any]
    writes: bool = True
    curves: dict[str, list[float]] = field(default_factory=dict)
    every_seconds: float = 0.0
    strict: bool = True
    _last: float = field(default_factory=time.monotonic)

    def restore(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> int:
        """Put back what was kept, and return how many epochs it has behind it; 0 for nothing.

        Raises:
            DataError: If the file cannot be used, and ``strict``.
        """
        if not self.path.exists():
            return 0
        try:
            tensors, done = load_training(self.path, self.identity)
        except DataError as error:
            if self.strict:
                raise
            logger.warning("%s The training begins anew.", error)
            return 0
        parts: dict[str, dict[str, Tensor]] = {"model": {}, "optimizer": {}, "curves": {}}
        for name, tensor in tensors.items():
            kind, _, rest = name.partition(".")
            parts[kind][rest] = tensor
        model.load_state_dict(parts["model"])
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in parts["optimizer"].items():
            index, _, entry = name.partition(".")
            state.setdefault(int(index), {})[entry] = tensor
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": state, "param_groups": groups})
        for name, tensor in parts["curves"].items():
            self.curves[name][:] = tensor.tolist()
        return done

    def keep(self, model: nn.Module, optimizer: torch.optim.Optimizer, epochs: int) -> None:
        """Write the file, if it is this process that writes it, and time."""
        if not self.writes or time.monotonic() < self._last + self.every_seconds:
            return
        tensors = {f"model.{name}": t for name, t in model.state_dict().items()}
        for index, entries in optimizer.state_dict()["state"].items():
            for entry, value in entries.items():
                if isinstance(value, Tensor):
                    tensors[f"optimizer.{index}.{entry}"] = value
        for name, values in self.curves.items():
            tensors[f"curves.{name}"] = torch.tensor(values, dtype=torch.float64)
        save_training(self.path, tensors, self.identity, epochs)
        self._last = time.monotonic()
