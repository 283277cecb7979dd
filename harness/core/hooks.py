"""A defense's hooks during a training, held to what they promise."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from harness.core.data import ImageSet
from harness.core.errors import DataError
from harness.core.protocols import TrainingHook

# Noise may leave [0, 1]: Gaussian noise with a standard deviation of 1 stays within 6 of it. Images
# in 0..255 do not, unless they are all but black.
LOWEST, HIGHEST = -8.0, 9.0


class CheckedHook:
    """A hook whose every answer is checked, without waiting for the device in a batch.

    Args:
        hook: Whose answers.
        lowest: Least value of a batch.
        highest: Largest value of a batch.
    """

    def __init__(
        self, hook: TrainingHook, lowest: float = LOWEST, highest: float = HIGHEST
    ) -> None:
        self.hook, self.range = hook, (lowest, highest)
        self.name = f"hook {type(hook).__module__}.{type(hook).__qualname__}"
        self._seen: tuple[Tensor, Tensor] | None = None  # least and largest value of an epoch

    def before_epoch(
        self, epoch: int, train: ImageSet, model: nn.Module, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the hook's positions.

        Raises:
            DataError: If they are no positions of training rows, each once.
        """
        self._seen = None
        chosen = self.hook.before_epoch(epoch, train, model, rng)
        wrong = wrong_positions(chosen, len(train))
        if wrong:
            raise DataError(
                f"{self.name}: before_epoch must return positions of training rows, integers in "
                f"0..{len(train) - 1}, each once, in one dimension; {wrong} (epoch {epoch})."
            )
        return np.asarray(chosen, dtype=np.int64)

    def on_batch(self, x: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Return the hook's batch.

        Raises:
            DataError: If it is no batch of the same shape and type, and on the same device.
        """
        wanted = (tuple(x.shape), x.dtype, x.device)
        changed = self.hook.on_batch(x, rows, rng)
        if not isinstance(changed, Tensor):
            raise DataError(f"{self.name}: on_batch must return a batch; got {_named(changed)}.")
        given = (tuple(changed.shape), changed.dtype, changed.device)
        if given != wanted:
            raise DataError(
                f"{self.name}: on_batch must keep a batch's shape, type and device, "
                f"{' '.join(map(str, wanted))}; got {' '.join(map(str, given))}."
            )
        least, largest = torch.aminmax(changed.detach())  # each is NaN if one value is
        if self._seen is not None:
            before = self._seen
            least, largest = torch.minimum(least, before[0]), torch.maximum(largest, before[1])
        self._seen = (least, largest)
        return changed

    def check_values(self) -> None:
        """Check the values of all batches since the epoch began; waits for the device.

        Raises:
            DataError: If one is not finite, or far from [0, 1].
        """
        if self._seen is None:
            return
        least, largest = map(float, self._seen)
        if not (least >= self.range[0] and largest <= self.range[1]):  # NaN is neither
            raise DataError(
                f"{self.name}: on_batch must return finite values in [0, 1], which only noise may "
                f"leave, within [{self.range[0]:g}, {self.range[1]:g}]; got {least:g}..{largest:g}."
            )


def wrong_positions(chosen: Any, rows: int) -> str:
    """Return why an answer is no positions of so many rows, or ""."""
    if not isinstance(chosen, (np.ndarray, list, tuple, Tensor)):
        return f"got {_named(chosen)}"
    positions = np.asarray(chosen)
    if positions.ndim != 1 or positions.dtype.kind not in "iu":
        mask = "; np.flatnonzero makes positions of a mask" if positions.dtype == bool else ""
        return f"got {positions.dtype} {positions.shape}{mask}"
    outside = positions[(positions < 0) | (positions >= rows)]
    if len(outside):
        return f"{len(outside)} lie outside, such as {outside[0]}: ids are no positions"
    twice = len(positions) - len(np.unique(positions))
    return f"{twice} stand there again" if twice else ""


def _named(value: Any) -> str:
    return "None" if value is None else type(value).__name__
