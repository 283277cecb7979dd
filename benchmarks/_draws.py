"""The same random numbers for two forms of a training that draws in the same order."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode

NAMES = ("rand", "randn", "randint", "randperm", "rand_like", "randn_like")


class Draws(TorchFunctionMode):
    """Notes what torch's random functions return, or has them return what was noted.

    Args:
        given: What they return, one after the other; None: what they would.

    Attributes:
        made: What they returned.
    """

    def __init__(self, given: Iterable[Tensor] | None = None) -> None:
        super().__init__()
        self.given = None if given is None else iter(given)
        self.made: list[Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        drawn = func(*args, **(kwargs or {}))
        if getattr(func, "__name__", "") not in NAMES:
            return drawn
        if self.given is not None:
            noted = next(self.given)
            if noted.shape != drawn.shape:
                raise ValueError(f"{noted.shape} was drawn, and {drawn.shape} is asked for")
            drawn = noted.to(drawn.device)
        self.made.append(drawn.clone())
        return drawn
