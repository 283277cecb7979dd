"""torch's optimizers, without loading torch's compiler.

``torch.optim`` decorates construction, ``step`` and ``zero_grad`` for ``torch.compile``, and the
decorators import ``torch._dynamo`` when they are first called: as much processor time as ``import
torch`` itself takes, or twice that, once in every process that trains anything. Nothing here is
compiled with an optimizer inside, so the methods are used as they were before they were decorated;
their arithmetic is torch's.
"""

from __future__ import annotations

import inspect
from typing import TypeVar

import torch

T = TypeVar("T", bound=torch.optim.Optimizer)


def _light(optimizer: type[T]) -> type[T]:
    """Return a subclass whose methods are those of ``optimizer`` without their decorators."""
    names = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")
    bare = {name: inspect.unwrap(getattr(optimizer, name)) for name in names}
    step = torch.no_grad()(inspect.unwrap(optimizer.step))
    return type(optimizer.__name__, (optimizer,), {**bare, "step": step})


SGD = _light(torch.optim.SGD)
Adam = _light(torch.optim.Adam)
AdamW = _light(torch.optim.AdamW)
RAdam = _light(torch.optim.RAdam)
