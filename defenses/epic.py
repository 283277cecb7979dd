"""EPIC: rows whose gradient resembles no other's are dropped while the victim trains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from defenses._facility_location import facility_location
from defenses._gradient_proxy import gradient_proxies
from harness.core.data import ImageSet
from harness.core.device import Precision, pick_dtype
from harness.core.errors import DataError
from harness.core.protocols import DEFENSES, TrainingHook

Budgets = Literal["proportional", "equal"]


def class_budgets(
    counts: NDArray[np.int64], total: int, rule: Budgets, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return how many medoids each class gets.

    A share is rounded up, and random classes give one back until the sum is ``total``. A class
    never gets as many medoids as it has rows, which would isolate all of them: one row less is the
    most. So a class of one row gets none, and the sum can be smaller than ``total``.

    Args:
        counts: int64 (C,), rows of each class.
        total: Medoids of all classes together, at most the sum of ``counts``.
        rule: Shares in proportion to the rows, or equal ones for all classes that have rows; what
            a small class cannot take of an equal share is not given to others.
        rng: Which classes give one back.
    """
    present = counts > 0
    weights = counts if rule == "proportional" else present.astype(np.int64)
    budgets = -(-weights * total // max(1, int(weights.sum())))  # ceil, in whole numbers
    able = np.flatnonzero(budgets)
    budgets[rng.choice(able, int(budgets.sum()) - total, replace=False)] -= 1
    most: NDArray[np.int64] = np.minimum(budgets, np.maximum(counts - 1, 0))
    return most


def gathered(
    proxies: Tensor,
    labels: NDArray[np.int64],
    budgets: NDArray[np.int64],
    threshold: int,
    memory_mib: int,
) -> NDArray[np.bool_]:
    """Return which rows are in a cluster of more than ``threshold`` rows of their class.

    Args:
        proxies: float (N, D), the rows' gradient proxies.
        labels: int64 (N,).
        budgets: int64 (C,), clusters of each class; a class with none keeps all its rows.
        threshold: Size of the largest cluster that is given up.
        memory_mib: See :func:`defenses._facility_location.facility_location`.
    """
    keep = np.ones(len(labels), bool)
    for label in np.flatnonzero(budgets):
        rows = np.flatnonzero(labels == label)
        points = proxies[torch.from_numpy(rows).to(proxies.device)]
        found = facility_location(points, int(budgets[label]), memory_mib=memory_mib)
        keep[rows] = (found.sizes()[found.cluster] > threshold).cpu().numpy()
    return keep


@DEFENSES.register(paper="arXiv:2210.09671")
@dataclass(frozen=True, slots=True, kw_only=True)
class Epic:
    """Drops training rows that are isolated in gradient space, in rounds, while the victim trains.

    Per class, medoids of the rows' gradients at the logits are chosen by facility location, and
    every row joins the medoid most similar to it. Rows of clusters that are too small, by default
    medoids that nobody joins, are not trained on again. Every round looks at the full training set
    in its fixed order, without augmentation. A class with fewer than two rows keeps them.

    The published results on CIFAR-10 have shares of 0.1 to 0.3; (every, drop_after) is (10, 30) for
    200 epochs and (2, 10) for 40. A training that ends before ``drop_after`` is not defended.

    Attributes:
        subset_share: Medoids as a share of the training set, in (0, 1).
        every: A round at the start of each epoch that is a multiple of this, counted from 0.
        drop_after: First epoch in which there can be a round.
        stop_after: No round from this epoch on.
        cluster_threshold: Clusters of at most this many rows are dropped.
        budgets: Medoids per class: ``proportional`` to its rows, or ``equal``.
        use_bias: Keep the bias of the last layer in the logits; the published code leaves it out.
        precision: Type of the network's activations when gradients are taken.
        memory_mib: Most memory for the similarities of one class, in MiB; it changes speed alone.
    """

    subset_share: float = 0.1
    every: int = 10
    drop_after: int = 1
    stop_after: int = 200
    cluster_threshold: int = 1
    budgets: Budgets = "proportional"
    use_bias: bool = False
    precision: Precision = "fp32"
    memory_mib: int = 1536

    rowwise: ClassVar[bool] = True
    example: ClassVar[Mapping[str, Any]] = {"subset_share": 0.2, "every": 1}

    def __post_init__(self) -> None:
        if not 0 < self.subset_share < 1:
            raise DataError(f"subset_share is a share in (0, 1); got {self.subset_share}.")
        if min(self.every, self.cluster_threshold, self.memory_mib) < 1:
            raise DataError(
                "every, cluster_threshold and memory_mib must be at least 1; "
                f"got {self.every}, {self.cluster_threshold} and {self.memory_mib}."
            )
        if not 0 <= self.drop_after < self.stop_after:
            raise DataError(
                "drop_after must lie in 0..stop_after-1; "
                f"got {self.drop_after} and stop_after {self.stop_after}."
            )
        if self._first_round() >= self.stop_after:
            raise DataError(
                f"no multiple of every={self.every} lies in drop_after={self.drop_after}.."
                f"stop_after-1={self.stop_after - 1}: there would be no round."
            )

    def _first_round(self) -> int:
        return -(-self.drop_after // self.every) * self.every

    def is_round(self, epoch: int) -> bool:
        """Whether rows are looked at before this epoch, counted from 0."""
        return epoch % self.every == 0 and self.drop_after <= epoch < self.stop_after

    def check(self, train: ImageSet) -> None:
        """Check that the share makes at least one medoid of these rows."""
        if int(self.subset_share * len(train)) < 1:
            raise DataError(
                f"subset_share {self.subset_share} of {len(train)} rows is less than one medoid."
            )

    def purify(self, train: ImageSet, rng: np.random.Generator) -> ImageSet:
        """Return the rows themselves; some are dropped during training.

        These may be a part of a set, too few for a medoid: the poisons of a targeted attack.
        """
        return train

    def hooks(self) -> Sequence[TrainingHook]:
        """Return a fresh hook, which remembers what one training has dropped."""
        return (_Dropping(self),)


class _Dropping:
    """The rows of one training that are still trained on."""

    def __init__(self, settings: Epic) -> None:
        self.settings = settings
        self.keep: NDArray[np.bool_] | None = None

    def before_epoch(
        self, epoch: int, train: ImageSet, model: nn.Module, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Return the rows that every round so far has kept."""
        if self.keep is None:
            self.settings.check(train)
            self.keep = np.ones(len(train), bool)
        keep = self.keep
        if self.settings.is_round(epoch):
            keep = keep & self._round(train, model, rng)
        self.keep = keep
        return np.flatnonzero(keep)

    def _round(
        self, train: ImageSet, model: nn.Module, rng: np.random.Generator
    ) -> NDArray[np.bool_]:
        settings = self.settings
        dtype = pick_dtype(settings.precision, next(model.parameters()).device)
        proxies = gradient_proxies(model, train, use_bias=settings.use_bias, dtype=dtype)
        counts = np.bincount(train.labels, minlength=train.num_classes)
        total = int(settings.subset_share * len(train))
        budgets = class_budgets(counts, total, settings.budgets, rng)
        return gathered(
            proxies, train.labels, budgets, settings.cluster_threshold, settings.memory_mib
        )

    def on_batch(self, x: Tensor, rows: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        """Return the batch as it is."""
        return x
