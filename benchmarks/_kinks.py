"""Gradients of ReLU networks in two forms, where a unit may fall on either side of its kink.

Two forms of the same network round differently. Where a pre-activation is nearly 0, one form may
find the unit on and the other off, and then the gradients differ by that unit's whole part: neither
is wrong. That this, and nothing else, is the difference is shown, not assumed: the straightforward
form is run once more with the units on that the fast form had on, and has to agree then; the units
that it would have had otherwise have to be at their kinks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

TOLERANCE = 1e-4  # of float32, relative
KINK = 1e-5  # how near 0 a unit is at its kink, as a share of the largest of its layer

T = TypeVar("T")


class Units(TorchFunctionMode):
    """Notes which units every ReLU has on, in the order of the calls, or imposes it.

    Args:
        imposed: Bool masks of the shapes of the ReLUs' inputs, one per call; further rows of a mask
            are left out (a form may repeat rows to fill a batch). None imposes nothing.

    Attributes:
        on: The masks that the ReLUs have, or would have.
        flips: For each call, int64 (B,), the units of each row that are imposed otherwise.
        margin: How far the farthest of these is from 0, as a share of the largest of its layer.
    """

    def __init__(self, imposed: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self.imposed = imposed
        self.on: list[Tensor] = []
        self.flips: list[Tensor] = []
        self.margin = 0.0

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Any = None
    ) -> object:
        if getattr(func, "__name__", "") not in ("relu", "relu_"):
            return func(*args, **(kwargs or {}))
        x = args[0]
        self.on.append(x.detach() > 0)
        if self.imposed is None:
            return func(*args, **(kwargs or {}))
        wanted = self.imposed[len(self.on) - 1][: len(x)]
        other = self.on[-1] != wanted
        self.flips.append(other.flatten(1).sum(1))
        size = x.detach().abs()
        self.margin = max(self.margin, float((size * other).max() / size.max().clamp_min(1e-30)))
        return x * wanted


@dataclass(frozen=True, slots=True)
class Comparison:
    """How far a fast form is from the straightforward one, with its own units and with the same.

    Attributes:
        off: (n,), relative, each with its own units; per image, or in all (n = 1).
        off_alike: (n,), relative, with the same units.
        flips: int64 (n,), the units that were on in one form only.
        margin: See :class:`Units`.
        tolerance: Most that a form may be off.
    """

    off: Tensor
    off_alike: Tensor
    flips: Tensor
    margin: float
    tolerance: float = TOLERANCE

    @property
    def explained(self) -> int:
        """How many are off by more than the tolerance, and by a unit at its kink alone."""
        alike = (self.flips > 0) & (self.off_alike < self.tolerance) & (self.margin < KINK)
        return int(((self.off >= self.tolerance) & alike).sum())

    @property
    def equal(self) -> bool:
        """Whether all agree but for such units; what is not explained by them fails."""
        within = int((self.off < self.tolerance).sum())
        return within + self.explained == len(self.off)

    def named(self, name: str) -> dict[str, float | bool]:
        """Return the figures for a result."""
        return {
            f"{name} error, fp32": float(self.off.max()),
            f"{name} error, same units": float(self.off_alike.max()),
            f"{name}s off by a unit at its kink": self.explained,
        }


def compare(
    plain: Callable[[], T],
    fast: Callable[[], T],
    apart: Callable[[T, T], Tensor],
    units: Callable[[list[Tensor]], list[Tensor]] = list,
    tolerance: float = TOLERANCE,
) -> Comparison:
    """Compare two forms of the same gradients.

    Args:
        plain: The straightforward form; it calls ReLUs in the order of the fast one.
        fast: The fast form.
        apart: Of what the two return, how far they are apart, relative: (n,).
        units: Puts the fast form's masks into the order of the straightforward form's calls.
        tolerance: Most that they may be apart.

    Raises:
        ValueError: If the forms do not call as many ReLUs.
    """
    with Units() as noted:
        found = fast()
    expected, masks = plain(), units(noted.on)
    with Units(masks) as held:
        alike = plain()
    if len(held.on) != len(masks):
        raise ValueError(f"{len(held.on)} ReLUs in one form, {len(masks)} in the other")
    off = apart(found, expected)
    flips = torch.stack(held.flips).sum(0).to(off.device)
    if len(flips) != len(off):
        flips = flips.sum().expand(len(off))
    return Comparison(off, apart(found, alike), flips, held.margin, tolerance)
