"""torch's optimizers, without loading torch's compiler.

``torch.optim`` decorates construction, ``step`` and ``zero_grad`` for ``torch.compile``, and the
decorators import ``torch._dynamo`` when they are first called: as much processor time as ``import
torch`` itself takes, or twice that, once in every process that trains anything. Nothing here is
compiled with an optimizer inside, so the methods are used as they were before they were decorated;
their arithmetic is torch's.

A fused optimizer goes through weights, gradients and averages as they lie in memory. Where their
orders differ, it pairs the wrong numbers on a CPU, and gives up on a GPU; torch may hand back such
gradients, and a file such averages. So these are put into the order of their weights before.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T", bound=torch.optim.Optimizer)


def _light(optimizer: type[T]) -> type[T]:
    """Return a subclass whose methods are those of ``optimizer`` without their decorators."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    bare = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    plain_step, plain_load = inspect.unwrap(optimizer.step), bare["load_state_dict"]

    @torch.no_grad()
    def step(self: T) -> None:
        for weight in _fused(self):
            if weight.grad is not None:
                weight.grad = _in_order(weight.grad, weight)
        plain_step(self)

    @torch.no_grad()
    def load_state_dict(self: T, state_dict: dict[str, Any]) -> None:
        plain_load(self, state_dict)
        for weight in _fused(self):
            averages = self.state.get(weight, {})
            for name, value in averages.items():
                if isinstance(value, Tensor) and value.shape == weight.shape:
                    averages[name] = _in_order(value, weight)

    own = {"step": step, "load_state_dict": load_state_dict}
    return type(optimizer.__name__, (optimizer,), {**bare, **own})


def _fused(optimizer: torch.optim.Optimizer) -> Iterator[Tensor]:
    """Yield the weights that a fused update goes through."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            yield from group["params"]


def _in_order(values: Tensor, weight: Tensor) -> Tensor:
    """Return values in the order in memory that a weight of their shape has."""
    if values.stride() == weight.stride():
        return values
    return torch.empty_like(weight).copy_(values)


def all_at_once(parameters: Sequence[Tensor]) -> dict[str, Any]:
    """Return the option of an optimizer that updates many tensors at once: one kernel on a GPU."""
    return {"fused" if all(p.is_cuda for p in parameters) else "foreach": True}


SGD = _light(torch.optim.SGD)
Adam = _light(torch.optim.Adam)
AdamW = _light(torch.optim.AdamW)
RAdam = _light(torch.optim.RAdam)
