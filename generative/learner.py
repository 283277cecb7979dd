"""What the trainings of generators share: the average that is the result, and stops in between."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from generative.checkpoints import load_training, save_training
from harness.core.parallel import Workers, gradients

Model = TypeVar("Model", bound=nn.Module)


class Learner(Generic[Model]):
    """A network in training, the running average of its weights, and the optimizer's moments.

    Args:
        model: The network, where and as it shall be; the average begins as a copy of it.
        optimizer: Of all its weights.
        workers: Who shares the training.
    """

    def __init__(self, model: Model, optimizer: torch.optim.Optimizer, workers: Workers) -> None:
        self.model, self.optimizer, self.workers = model, optimizer, workers
        self.average = copy.deepcopy(model)

    def update(self, loss: Tensor, lr: float, decay: float) -> Tensor:
        """Update weights and average by the gradient of a loss, a scalar of this worker's rows.

        Args:
            loss: With its graph.
            lr: Learning rate of this update.
            decay: Of the average: what it keeps of itself, in [0, 1).

        Returns:
            The loss over the rows of all workers, without a graph.
        """
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        loss = loss.detach()
        self.workers.average([*gradients(list(self.model.parameters())), loss])
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        with torch.no_grad():
            average: list[Tensor] = list(self.average.parameters())
            torch._foreach_lerp_(average, list(self.model.parameters()), 1 - decay)
        return loss

    def tensors(self) -> dict[str, Tensor]:
        """Return everything that the next update needs, by name."""
        tensors = {f"model.{k}": v for k, v in self.model.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.state_dict().items()}
        for index, moments in self.optimizer.state_dict()["state"].items():
            tensors |= {f"adam.{index}.{k}": v for k, v in moments.items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Take over what :meth:`tensors` has returned."""

        def part(prefix: str) -> dict[str, Tensor]:
            return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}

        self.model.load_state_dict(part("model."))
        self.average.load_state_dict(part("average."))
        moments: dict[int, dict[str, Tensor]] = {}
        for key, value in part("adam.").items():
            index, name = key.split(".", 1)
            moments.setdefault(int(index), {})[name] = value
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})


def updates(
    learner: Learner[Any],
    count: int,
    identity: Mapping[str, Any],
    checkpoint: Path | None,
    every: int,
    also: Mapping[str, Tensor] = {},
) -> Iterator[int]:
    """Yield the numbers of the updates that are left, from 0; keep the training in between.

    Args:
        learner: Goes on from ``checkpoint`` where that exists.
        count: Updates in all.
        identity: What a training must have in common with a kept one to go on from it.
        checkpoint: File that the first worker writes after the last update and each ``every`` one.
        every: Updates between two writes.
        also: What the next update needs beside the learner, by name; filled in place.

    Raises:
        DataError: If the checkpoint is of another training, or damaged.
    """
    start = 0
    if checkpoint is not None and checkpoint.exists():
        tensors, start = load_training(checkpoint, identity)
        learner.restore(tensors)
        for name, tensor in also.items():
            tensor.copy_(tensors[name])
    for number in range(start, count):
        yield number
        done = number + 1
        due = done % every == 0 or done == count
        if checkpoint is not None and due and learner.workers.rank == 0:
            save_training(checkpoint, {**learner.tensors(), **also}, identity, done)
